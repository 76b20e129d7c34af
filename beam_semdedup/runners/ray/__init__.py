"""Ray: its cluster, its actors as workers, and a job endpoint on it; the only runner that imports Ray."""
