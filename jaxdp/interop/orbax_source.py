"""Arrays of an Orbax directory that another program wrote, as a parameter source."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.array_store import STRUCTURE, ArrayStore
from jaxdp.checkpoint.files import file_sha256
from jaxdp.errors import UserError
from jaxdp.interop.source import ArraySpec, ParameterSource

PARAMETERS = ("params", "model", "ema_params")
"""Elements of a path around parameters that foreign train states have; names leave them out."""


class OrbaxSource(ParameterSource):
    """Arrays of an Orbax item, or of the items of a composite checkpoint; parameters alone where the tree names them."""

    kind = "Orbax directory"

    def __init__(self, path: Path):
        """Opens a directory; its metadata is read when it is first needed."""
        self.path = path

    def items(self) -> Mapping[str, ArrayStore]:
        """Returns the items of the directory by name."""
        return {item.name: ArrayStore(item) for item in orbax_items(self.path)}

    @functools.cached_property
    def stored(self) -> Mapping[str, tuple[ArrayStore, str]]:
        """Name -> (item, name in the item) of every array of the directory; names begin with the item where there are several."""
        items = self.items()
        prefixes = {name: f"{name}/" if len(items) > 1 else "" for name in items}
        return {prefixes[item] + name: (store, name) for item, store in items.items() for name in store.shapes}

    def everything(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.everything`."""
        return {name: ArraySpec(*store.shapes[path]) for name, (store, path) in self.stored.items()}

    @functools.cached_property
    def _places(self) -> Mapping[str, tuple[ArrayStore, str]]:
        for part in PARAMETERS:
            own = {
                name.partition(f"{part}/")[2]: place for name, place in self.stored.items() if f"/{part}/" in f"/{name}"
            }
            if own:
                return own
        return self.stored

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {name: ArraySpec(*store.shapes[path]) for name, (store, path) in self._places.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads an array; see `ParameterSource.read`."""
        spec = self.arrays[name]
        array = np.empty(spec.shape, spec.dtype)
        flat, start = array.reshape(-1), 0
        for piece in self.pieces(name):
            flat[start : start + piece.size] = piece
            start += piece.size
        return array

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads an array in pieces; see `ParameterSource.pieces`."""
        store, path = self._places[name]
        yield from store.pieces(path)

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
