"""Generating text: filters on logits, and the decode loop with a KV cache."""
