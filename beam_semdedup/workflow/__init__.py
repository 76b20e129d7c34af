"""Whole jobs: parameters in, results and their summary in `output_path` out; what a stage does is not decided here."""
