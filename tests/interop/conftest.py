"""The fixtures of tiny runs."""

from tiny_runs import compilation_cache, config_file, trained

__all__ = ["compilation_cache", "config_file", "trained"]
