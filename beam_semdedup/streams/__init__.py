"""Watched inputs: what arrives becomes generations of a corpus, in a pipeline that does not end by itself."""
