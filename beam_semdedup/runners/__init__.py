"""Where pipelines run: one class for each runner, and what they share; nothing here knows what a pipeline computes."""
