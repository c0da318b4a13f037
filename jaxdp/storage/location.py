"""URLs of run directories in object storage: scheme, bucket and prefix."""

import os
import re
from typing import NamedTuple

from jaxdp.errors import UserError

SCHEMES = ("s3", "gs")
"""Schemes that a work directory may have."""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<path>.*)", re.DOTALL)
_BUCKET = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_SEGMENT = re.compile(r"[A-Za-z0-9._=+@,-]+")


class RemoteLocation(NamedTuple):
    """Place in object storage.

    Attributes:
        scheme: `s3` or `gs`.
        bucket: Name of the bucket.
        prefix: Prefix of the keys, without slashes at its ends; empty: the whole bucket.
    """

    scheme: str
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """URL of the place."""
        return "/".join(filter(None, (f"{self.scheme}://{self.bucket}", self.prefix)))


def is_remote(text: str | os.PathLike[str]) -> bool:
    """Returns True for a URL of a scheme that a work directory may have."""
    match = _URL.match(text) if isinstance(text, str) else None
    return match is not None and match["scheme"] in SCHEMES


def check_scheme(text: str | os.PathLike[str], option: str) -> None:
    """Checks that a work directory is a path, or a URL of a scheme of `SCHEMES`.

    Raises:
        UserError: It is a URL of another scheme.
    """
    match = _URL.match(text) if isinstance(text, str) else None
    if match and match["scheme"] not in SCHEMES:
        known = " or ".join(f"{scheme}://BUCKET/NAME" for scheme in SCHEMES)
        raise UserError(f"{option}={text}: {match['scheme']}:// is not supported; expected a local path, {known}.")


def remote_location(text: str, option: str) -> RemoteLocation:
    """Parses the URL of a place in object storage.

    Args:
        text: URL of a scheme of `SCHEMES`.
        option: Name of the option that gives it, for messages.

    Raises:
        UserError: The bucket is missing, or a name has characters other than letters, digits and `._=+@,-`.
    """
    match = _URL.match(text)
    assert match and match["scheme"] in SCHEMES, "the caller has asked `is_remote`"
    bucket, *segments = match["path"].rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{option}={text} names no bucket; expected {match['scheme']}://BUCKET/NAME.")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
            raise UserError(
                f"{option}={text}: {segment!r} cannot be part of the URL of a work directory; use letters, digits and ._=+@,- "
                "between single slashes."
            )
    return RemoteLocation(match["scheme"], bucket, "/".join(segments))
