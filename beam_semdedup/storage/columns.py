"""The columns of the files that a run writes, before the metadata fields."""

import pyarrow as pa

RESULT_COLUMNS = ("id", "max_id", "cosine_sim_score", "centroid")
"""Of pairwise_results and duplicates."""
SOURCE = "source_file"
"""Of pairwise_results besides: the number of the input file that the row is from, in the plan of kmeans_results."""
MAX_SOURCE = "max_source"
"""Of pairwise_results and duplicates, besides, where rows are compared with earlier generations: what the row with the
`max_id` is of, `input` or the file of that generation; null where there is no such row."""
INPUT = "input"
GENERATION = "__generation"
"""Of rows that are compared: which generation each is of."""
SEGMENT_COLUMNS = (
    "id",
    "embedding",
    "centroid",
    "l2_dist_to_cent",
    "cosine_dist_to_cent",
    SOURCE,
    "source_row",
)
"""Of a segment file."""
VISIT_COLUMNS = ("embedding", "__visited", "__home", "__offset")
"""Of rows that visit clusters of a key, before what their order depends on: a short vector, these clusters, the own
one, and the byte of the segment file at which the vector begins."""
MATCH_COLUMNS = ("centroid", "__file", "__row", "__identical", "cosine_sim_score")
"""Of the matches of rows, before what the order of the earlier row depends on: the cluster and the source of the row,
whether both are the same, bit for bit, and the score."""
SAMPLE_COLUMNS = ("embedding", "centroid", "__found")
"""Of sampled rows, before what their order depends on: the vector, the cluster, and the score that the run found."""
VISIT_TYPES = (pa.list_(pa.int32()), pa.int32(), pa.int64())
MATCH_TYPES = (pa.int32(), pa.int32(), pa.int64(), pa.int8(), pa.float32())
