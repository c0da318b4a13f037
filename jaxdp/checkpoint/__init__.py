"""Checkpoints: saving, restoring, integrity and retention.

`manifest` and `retention` import neither jax nor Orbax, so that a checkpoint can
be inspected without starting a backend.
"""
