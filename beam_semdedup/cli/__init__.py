"""The commands: what Hydra composes, help, tables and exit codes; Hydra is known here alone, nothing is computed."""
