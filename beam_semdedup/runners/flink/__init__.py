"""Flink: its cluster, Beam's job server for it, and the worker pools of its task managers."""
