"""Every parameter, declared, documented, defaulted and checked once; nothing here opens a file."""
