"""Datasets of token sequences, by `data.packing`: windows of a token array, packed documents, padded examples."""
