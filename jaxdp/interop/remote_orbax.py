"""Remote Orbax items and checkpoints of jaxdp by HTTP, as a parameter source; TensorStore reads ranges of their files."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.array_store import OCDBT, STRUCTURE, ArrayStore
from jaxdp.checkpoint.manifest import STATE
from jaxdp.interop.orbax_source import OrbaxSource
from jaxdp.interop.remote_source import open_file, read_remote_json


def open_remote_orbax(url: str) -> "RemoteOrbaxSource | None":
    """Opens an Orbax item, or the train state of a checkpoint of jaxdp, at an HTTP URL; None: neither is there.

    Raises:
        UserError: The server does not answer, or does not support range requests.
    """
    if not url.lower().startswith(("http://", "https://")) or "?" in url or url.endswith(".safetensors"):
        return None
    for item in (url.rstrip("/"), f"{url.rstrip('/')}/{STATE}"):
        structure = read_remote_json(f"{item}/{STRUCTURE}")
        if structure is not None:
            return RemoteOrbaxSource(url, RemoteItem(item, structure))
    return None


class RemoteItem(ArrayStore):
    """Orbax item at an HTTP URL."""

    def __init__(self, url: str, structure: Mapping[str, Any]):
        """Opens an item.

        Args:
            url: Its URL.
            structure: Content of its file with the tree.
        """
        self._item, self._structure = url, structure

    def _read_metadata(self) -> Mapping[str, Any]:
        return self._structure

    @functools.cached_property
    def _is_ocdbt(self) -> bool:
        return open_file(f"{self._item}/{OCDBT}") is not None

    def _directory(self, name: str) -> Mapping[str, Any]:
        return {"driver": "http", "base_url": f"{self._item}/", "path": f"{name}/" if name else ""}


class RemoteOrbaxSource(OrbaxSource):
    """Arrays of one remote item."""

    kind = "remote Orbax directory"

    def __init__(self, url: str, item: RemoteItem):
        """Creates the source.

        Args:
            url: URL that the user named.
            item: The item there, or below it.
        """
        super().__init__(Path(url))
        self._url, self._remote = url, item

    @property
    def place(self) -> str:
        """See `ParameterSource.place`."""
        return self._url

    def items(self) -> Mapping[str, ArrayStore]:
        """See `OrbaxSource.items`."""
        return {"": self._remote}

    def identity(self) -> str:
        """Computes SHA-256 of the URL and of the names and shapes of the arrays."""
        arrays = {name: str(spec) for name, spec in self.everything().items()}
        return hashlib.sha256(json.dumps([self._url, arrays]).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the URL."""
        return f"remote Orbax directory {self._url}"
