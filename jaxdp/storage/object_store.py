"""Interface of an object store, and the errors of its operations."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from jaxdp.errors import UserError

Tag = Mapping[str, str]
"""Version of an object, for `ObjectStore.replace`."""


class ObjectInfo(NamedTuple):
    """Object in a listing.

    Attributes:
        key: Key below the prefix of the store.
        size: Size in bytes.
        version: Text that changes when the object is replaced by another content.
    """

    key: str
    size: int
    version: str


class StorageError(UserError):
    """Failed operation of an object store.

    Attributes:
        is_transient: Whether the same operation may succeed later, as after a failure of the network.
    """

    def __init__(self, sentence: str, *, is_transient: bool = False):
        super().__init__(sentence)
        self.is_transient = is_transient


class StorageLost(UserError):
    """Object storage that a run needs stayed unreachable; nothing is lost on this machine, and launchers restart the run."""

    exit_code = 70


class ObjectExists(Exception):
    """Raised by `put_new` for a key that has an object."""


class ObjectChanged(Exception):
    """Raised by `replace` if the object is not the expected version."""


class ObjectStore(Protocol):
    """Objects below one prefix.

    Each operation is atomic: other processes see all of it or nothing. A reader sees what was put before it began to
    read. Every operation raises StorageError if the store cannot be reached or refuses it.
    """

    url: str
    """URL of the prefix, for messages."""

    def read(self, key: str) -> tuple[bytes, Tag]:
        """Returns the content and version of an object; raises FileNotFoundError if there is none."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Returns the bytes from `start` up to `stop`; raises FileNotFoundError if there is no object."""
        ...

    def pieces(self, key: str) -> Iterator[bytes]:
        """Reads an object in pieces of bounded size; raises FileNotFoundError if there is none."""
        ...

    def put(self, key: str, content: bytes | Path) -> None:
        """Puts an object, from memory or from a file, over any other of its key."""
        ...

    def put_new(self, key: str, content: bytes) -> Tag:
        """Puts an object and returns its version; raises ObjectExists if the key has an object."""
        ...

    def replace(self, key: str, content: bytes, tag: Tag) -> Tag:
        """Replaces a version of an object and returns the new version; raises ObjectChanged if it has another version."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copies an object within the store."""
        ...

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Lists the objects whose keys begin with the segments of `prefix`, ordered by key."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; those that do not exist do not matter."""
        ...
