"""The command line: argv becomes one call. `--help` imports no jax."""
