"""What a run will do, before it does it: sizes, keys and the stored plans; nothing here reads a vector."""
