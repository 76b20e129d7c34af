"""The same task done otherwise, each a command that reads embeddings and writes the ids of the duplicates."""
