"""Command line: parses argv and calls one function. `--help` imports no jax."""
