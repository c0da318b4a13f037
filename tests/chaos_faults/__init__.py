"""The faults of `chaos.py`, one a file; each is a function that takes a workshop and yields rows of its table."""
