"""The columns of the files that a run writes, before the metadata fields."""

RESULT_COLUMNS = ("id", "max_id", "cosine_sim_score", "centroid")
"""Of pairwise_results and duplicates."""
SEGMENT_COLUMNS = (
    "id",
    "embedding",
    "centroid",
    "l2_dist_to_cent",
    "cosine_dist_to_cent",
    "source_file",
    "source_row",
)
"""Of a segment file."""
