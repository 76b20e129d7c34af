"""What the project does in which time and memory, next to what users would pick instead; see README.md."""
