"""What is compared; each module has a `run` that takes the `Bench` and returns a `Result`."""
