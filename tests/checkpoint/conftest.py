"""The fixtures of tiny checkpoints and tiny runs."""

from tiny_checkpoints import checkpoints, make_writer
from tiny_runs import compilation_cache, config_file, trained

__all__ = ["checkpoints", "compilation_cache", "config_file", "make_writer", "trained"]
