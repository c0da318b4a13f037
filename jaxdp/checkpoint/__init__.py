"""Checkpoints: what is on disk, which of them count, and which are kept.

`manifest` and `retention` import neither jax nor Orbax, so that a checkpoint
can be looked at without starting a backend.
"""
