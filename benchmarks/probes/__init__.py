"""Measurements inside one process, each a command that prints JSON."""
