"""Arrays of an Orbax directory that another program wrote, as a parameter source."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.files import file_sha256
from jaxdp.checkpoint.orbax_item import OrbaxItem
from jaxdp.errors import UserError
from jaxdp.interop.source import ArraySpec, ParameterSource

STRUCTURE = "_METADATA"
"""File of an Orbax item with its tree."""

PARAMETERS = ("params", "model", "ema_params")
"""Elements of a path around parameters that foreign train states have; names leave them out."""


class OrbaxSource(ParameterSource):
    """Arrays of an Orbax item, or of the items of a composite checkpoint; parameters alone where the tree names them."""

    def __init__(self, path: Path):
        """Opens a directory; its metadata is read when it is first needed, which starts a backend."""
        self.path = path

    @functools.cached_property
    def _items(self) -> Mapping[str, OrbaxItem]:
        found = orbax_items(self.path)
        return {"" if item == self.path else f"{item.name}/": OrbaxItem(item) for item in found}

    @functools.cached_property
    def _places(self) -> Mapping[str, tuple[OrbaxItem, str]]:
        """Name -> (item, path in the item)."""
        places = {prefix + name: (item, name) for prefix, item in self._items.items() for name in item.leaves}
        for part in PARAMETERS:
            own = {name.partition(f"{part}/")[2]: place for name, place in places.items() if f"/{part}/" in f"/{name}"}
            if own:
                return own
        return places

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        leaves = {name: item.leaves[path] for name, (item, path) in self._places.items()}
        return {name: ArraySpec(str(np.dtype(leaf.dtype)), tuple(leaf.shape)) for name, leaf in leaves.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads an array; see `ParameterSource.read`."""
        item, path = self._places[name]
        return item.read({path})[path]

    def identity(self) -> str:
        """Computes SHA-256 of all files."""
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file()]
        names = [f"{path.relative_to(self.path)} {file_sha256(path)}" for path in files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the path."""
        return f"Orbax directory {self.path}"


def orbax_items(path: Path) -> list[Path]:
    """Returns the Orbax items at a path: the directory itself, or its subdirectories."""
    if not path.is_dir():
        return []
    return [item for item in (path, *sorted(path.glob("*/"))) if (item / STRUCTURE).is_file()]


def check_written(path: Path) -> None:
    """Raises UserError for a directory that a program still writes, or stopped writing before it was complete."""
    if ".orbax-checkpoint-tmp" in path.name or ".saving-" in path.name:
        raise UserError(
            f"{path} is a checkpoint that is still being written, or whose save was interrupted: wait for the run that "
            "saves it, or choose an earlier checkpoint."
        )
