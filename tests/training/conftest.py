"""The fixtures of tiny runs and of servers of object storage."""

from gcs_server import gcs
from s3_server import s3, s3_server
from tiny_runs import compilation_cache, config_file, trained

__all__ = ["compilation_cache", "config_file", "gcs", "s3", "s3_server", "trained"]
