"""Texts in, embeddings out: an ONNX model over a dataset; what embeddings are for is not known here."""
