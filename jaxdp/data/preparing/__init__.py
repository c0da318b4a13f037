"""Preparation of data: scan, split, tokenization in workers, and the cache on disk."""
