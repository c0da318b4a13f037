"""The fixtures of servers on loopback."""

from gcs_server import gcs
from s3_server import s3, s3_server

__all__ = ["gcs", "s3", "s3_server"]
