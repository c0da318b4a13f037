"""Client of S3 and Google Cloud Storage (obstore), with one sentence for each way in which a request fails.

Credentials, region and endpoint are those of the environment: `AWS_*` (also `AWS_ENDPOINT_URL` of servers that speak
S3), `GOOGLE_APPLICATION_CREDENTIALS`, or the service account of the machine. obstore repeats requests that failed for a
transient reason, with exponential backoff, for up to `RETRY_SECS`.
"""

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxdp.errors import UserError
from jaxdp.storage.location import RemoteLocation
from jaxdp.storage.object_store import ObjectChanged, ObjectExists, ObjectInfo, StorageError, Tag

CONNECT_SECS = 5.0
"""Time limit of a connection."""

REQUEST_SECS = 60.0
"""Time limit of one request; large objects are put in parts."""

RETRY_SECS = 20.0
"""Time after which a failed request is not repeated any more."""

PART_BYTES = 2**24
"""Bytes of a part of a large object; S3 allows 10,000 parts."""

PIECE_BYTES = 2**23
"""Bytes that are read at once."""

_REASONS = (
    (("NoSuchBucket", "bucket does not exist", "The specified bucket"), "the bucket does not exist"),
    (("169.254.169.254", "metadata.google", "Unauthenticated", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
      "InvalidToken", "401 Unauthorized", "OSError reading credential", "No token"),
     "no valid credentials were found"),
    (("403 Forbidden", "AccessDenied", "PermissionDenied"), "access is denied"),
)  # fmt: skip
"""(texts of an error, its reason); other errors are those of the network or of the server, and transient."""

_FIXES = {
    "s3": "check the URL and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    "gs": "check the URL and GOOGLE_APPLICATION_CREDENTIALS",
}


def open_store(location: RemoteLocation, option: str) -> "CloudStore":
    """Opens the objects below a place in object storage; makes no request.

    Args:
        location: The place.
        option: Name of the option that gives it, for messages.

    Raises:
        UserError: The package obstore is missing, or a variable of the environment is invalid.
    """
    try:
        stores, errors = map(importlib.import_module, ("obstore.store", "obstore.exceptions"))
    except ImportError as error:
        raise UserError(
            f"{option}={location.url} needs the package obstore, which is not installed: `pip install 'jaxdp[storage]'`, or "
            "choose a local path."
        ) from error
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": True,  # endpoints of one's own network; the schemes' own servers have https addresses
            "connect_timeout": timedelta(seconds=CONNECT_SECS),
            "timeout": timedelta(seconds=REQUEST_SECS),
        },
        "retry_config": {"max_retries": 5, "retry_timeout": timedelta(seconds=RETRY_SECS)},
    }
    kind = stores.S3Store if location.scheme == "s3" else stores.GCSStore
    try:
        store = kind(location.bucket, prefix=location.prefix or None, **options)
    except (errors.BaseError, ValueError, OSError) as error:
        raise UserError(
            f"{option}={location.url} cannot be opened ({_first_line(error)}); {_FIXES[location.scheme]}."
        ) from error
    return CloudStore(store, errors, location)


class CloudStore:
    """`ObjectStore` of obstore; methods as described there."""

    def __init__(self, store: Any, errors: ModuleType, location: RemoteLocation):
        """Creates the store from one of obstore, and the module of its errors."""
        self.url = location.url
        self._store, self._errors, self._scheme = store, errors, location.scheme

    def read(self, key: str) -> tuple[bytes, Tag]:
        """See `ObjectStore.read`."""
        with self._explaining("read", key):
            found = self._store.get(key)
            return bytes(found.bytes()), _tag(found.meta)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See `ObjectStore.read_range`."""
        with self._explaining("read", key):
            return bytes(self._store.get_range(key, start=start, end=stop)) if stop > start else b""

    def pieces(self, key: str) -> Iterator[bytes]:
        """See `ObjectStore.pieces`."""
        with self._explaining("read", key):
            for piece in self._store.get(key).stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def put(self, key: str, content: bytes | Path) -> None:
        """See `ObjectStore.put`."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        part = max(PART_BYTES, size // 5000)
        with self._explaining("written", key):
            self._store.put(key, content, chunk_size=part, use_multipart=size > part)

    def put_new(self, key: str, content: bytes) -> Tag:
        """See `ObjectStore.put_new`."""
        with self._explaining("written", key):
            try:
                return _tag(self._store.put(key, content, mode="create"))
            except self._errors.AlreadyExistsError as error:
                raise ObjectExists(key) from error

    def replace(self, key: str, content: bytes, tag: Tag) -> Tag:
        """See `ObjectStore.replace`."""
        with self._explaining("written", key):
            try:
                return _tag(self._store.put(key, content, mode=dict(tag)))
            except (self._errors.PreconditionError, FileNotFoundError) as error:
                raise ObjectChanged(key) from error

    def copy(self, source: str, target: str) -> None:
        """See `ObjectStore.copy`."""
        with self._explaining("copied", source):
            self._store.copy(source, target)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `ObjectStore.list`."""
        with self._explaining("listed", prefix):
            found = [info for chunk in self._store.list(prefix or None) for info in chunk]
        described = (
            ObjectInfo(info["path"], info["size"], f"{info['e_tag']} {info['last_modified']}") for info in found
        )
        return sorted(described)

    def delete(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete`."""
        if keys := list(keys):
            with self._explaining("deleted", keys[0]), contextlib.suppress(FileNotFoundError):
                self._store.delete(keys)

    @contextlib.contextmanager
    def _explaining(self, what: str, key: str) -> Iterator[None]:
        """Converts errors of obstore to StorageError; `what` is the participle of the operation."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (self._errors.BaseError, PermissionError) as error:
            raise self._failure(what, key, error) from error

    def _failure(self, what: str, key: str, error: Exception) -> StorageError:
        text = str(error)
        reason = next((reason for words, reason in _REASONS if any(word in text for word in words)), None)
        where = "/".join(filter(None, (self.url, key)))
        if reason is None:
            return StorageError(
                f"{where} cannot be {what} ({_first_line(error)}); check the network and the server, then run the same command again.",
                is_transient=True,
            )
        return StorageError(f"{where} cannot be {what}: {reason}; {_FIXES[self._scheme]}.")


def _tag(meta: Any) -> Tag:
    """Returns what identifies a version: the generation of Google Cloud Storage, else the entity tag."""
    return {name: value for name in ("e_tag", "version") if (value := meta.get(name)) is not None}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
