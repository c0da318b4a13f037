"""Reference forward passes in NumPy float64, written from the definitions of transformers without jax and without tables."""
