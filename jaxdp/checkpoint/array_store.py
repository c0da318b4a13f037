"""TensorStore arrays of an Orbax item (OCDBT, Zarr 2, Zarr 3), without jax: structure from metadata, values in bounded pieces."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.errors import DamageFound, UserError
from jaxdp.json_files import read_json

STRUCTURE = "_METADATA"
"""File of an Orbax item with its tree."""

PIECE_BYTES = 2**24
"""Bytes that are read at once. A larger chunk of the file is read whole, since it is compressed as one."""

CACHE_BYTES = 2**25
"""Decoded chunks that are kept, since pieces of one chunk follow each other."""

OCDBT = "manifest.ocdbt"
"""File of an item whose arrays lie in one database."""

_NO_ARRAY = ("None", "Dict", "List", "Tuple", "NamedTuple", "string")
"""Kinds of leaves without an array: empty containers, and text."""


class ArrayStore:
    """Arrays of an Orbax item that are read one after another."""

    def __init__(self, item: Path):
        """Opens an item; nothing is read until it is needed."""
        self._item: Path | str = item.resolve()

    @functools.cached_property
    def shapes(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Name, with slashes between the elements of its path -> dtype and shape of each array."""
        opening = {name: (place, self._open(place)) for name, place in self._places.items()}  # all at once
        opened = {name: self._opened(*each) for name, each in opening.items()}
        return {name: (array.dtype.name, tuple(array.shape)) for name, array in opened.items()}

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads an array in C order, as flat pieces.

        Raises:
            DamageFound: It cannot be read.
        """
        place = self._places[name]
        array = self._opened(place, self._open(place))
        step = array.chunk_layout.read_chunk.shape or ()
        for block in blocks(tuple(array.shape), step, array.dtype.numpy_dtype.itemsize):
            try:
                yield np.ascontiguousarray(array[block].read().result()).reshape(-1)
            except ValueError as error:
                raise DamageFound(f"{name} of {self._item} cannot be read ({_first_line(error)}).") from error

    @functools.cached_property
    def _metadata(self) -> Mapping[str, Any]:
        metadata = self._read_metadata()
        if not isinstance(metadata.get("tree_metadata"), dict):
            raise UserError(
                f'{self._item}/{STRUCTURE} has no "tree_metadata": it is no Orbax item, or not a whole one.'
            )
        return metadata

    def _read_metadata(self) -> Mapping[str, Any]:
        return read_json(Path(self._item) / STRUCTURE, "the metadata of an Orbax item; copy the checkpoint again")

    @functools.cached_property
    def _is_ocdbt(self) -> bool:
        return (Path(self._item) / OCDBT).is_file()

    def _directory(self, name: str) -> Mapping[str, Any]:
        """Returns the specification of a directory of the item for TensorStore; "": the item itself."""
        return {"driver": "file", "path": f"{Path(self._item) / name}/"}

    @functools.cached_property
    def _places(self) -> Mapping[str, str]:
        """Name -> name of the array in the store."""
        places = {}
        for entry in self._metadata["tree_metadata"].values():
            try:
                keys = [str(key["key"]) for key in entry["key_metadata"]]
                value = entry["value_metadata"]
                has_array = not value.get("skip_deserialize") and value.get("value_type") not in _NO_ARRAY
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{self._item}/{STRUCTURE} is not understood ({error!r}): it has another format."
                ) from error
            if has_array:
                places["/".join(keys)] = ".".join(keys)
        return places

    @functools.cached_property
    def _context(self) -> Any:
        import tensorstore as ts

        return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})

    def _open(self, place: str) -> Any:
        """Begins to open an array."""
        import tensorstore as ts

        if self._is_ocdbt:
            store = {"driver": "ocdbt", "base": self._directory(""), "path": f"{place}/"}
        else:
            store = self._directory(place)
        driver = "zarr3" if self._metadata.get("use_zarr3") else "zarr"
        return ts.open({"driver": driver, "kvstore": store}, open=True, read=True, context=self._context)

    def _opened(self, place: str, opening: Any) -> Any:
        """Waits for an array that is being opened."""
        try:
            return opening.result()
        except ValueError as error:
            raise DamageFound(
                f"{self._item} does not hold {place} as its metadata says ({_first_line(error)})."
            ) from error


def blocks(shape: Sequence[int], step: Sequence[int], item_bytes: int) -> Iterator[tuple[slice, ...]]:
    """Divides an array into blocks that follow each other in C order.

    Args:
        shape: Shape of the array.
        step: Shape of a chunk of its file; (): any.
        item_bytes: Bytes of an element.

    Yields:
        Index of each block, of at most `PIECE_BYTES` unless the chunks next to each other along the other axes have more.
    """
    if not shape:
        yield ()
        return
    row_bytes = math.prod(shape[1:]) * item_bytes
    chunk_rows = min(step[0], shape[0]) if step else 1
    if row_bytes > PIECE_BYTES and chunk_rows <= 1:
        for row, block in itertools.product(range(shape[0]), list(blocks(shape[1:], step[1:], item_bytes))):
            yield slice(row, row + 1), *block
        return
    rows = max(PIECE_BYTES // max(row_bytes, 1) // max(chunk_rows, 1), 1) * max(chunk_rows, 1)
    if PIECE_BYTES // max(row_bytes, 1) < chunk_rows and chunk_rows * row_bytes <= CACHE_BYTES:
        rows = max(PIECE_BYTES // max(row_bytes, 1), 1)
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0])), *(slice(0, size) for size in shape[1:])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
