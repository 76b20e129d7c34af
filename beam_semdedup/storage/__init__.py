"""Files and folders of any file system, whole or absent, and what a run's files are called; it knows no parameter."""
