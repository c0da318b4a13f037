"""Samplers: the sequences of each batch as a function of seed and step, and their assignment to processes."""
