"""The fixtures of an S3 server."""

from s3_server import s3, s3_server

__all__ = ["s3", "s3_server"]
