"""The fixtures of tiny runs and of an S3 server."""

from s3_server import s3, s3_server
from tiny_runs import compilation_cache, config_file, trained

__all__ = ["compilation_cache", "config_file", "s3", "s3_server", "trained"]
