"""Parameter sources: named arrays of any kind of checkpoint, described without reading them and read one at a time."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class ArraySpec(NamedTuple):
    """Dtype and shape of an array.

    Attributes:
        dtype: Name of the NumPy dtype.
        shape: Shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class ParameterSource(ABC):
    """Named arrays of a checkpoint, a run, a Hugging Face folder, a safetensors file or an Orbax directory.

    `arrays` comes from metadata; only `read` and `fingerprint` read arrays, one at a time.

    Attributes:
        path: Path that the source was opened at.
        tokenizer: Path of its tokenizer.json; None: it has none.
        kind: Kind of source in words.
        config: Content of the config.json of a Hugging Face folder; None: it is none.
    """

    path: Path
    tokenizer: Path | None = None
    kind: str = ""
    config: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """Path or URL."""
        return str(self.path)

    def everything(self) -> Mapping[str, ArraySpec]:
        """Returns what is stored next to the parameters too, e.g. the state of an optimizer, by its full name."""
        return self.arrays

    @property
    @abstractmethod
    def arrays(self) -> Mapping[str, ArraySpec]:
        """Name -> dtype and shape of each array; names of nested trees are paths with slashes."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Reads an array into host memory.

        Raises:
            UserError: The file cannot be read.
            DamageFound: It is not what was written.
        """

    def check_whole(self) -> None:  # noqa: B027 - most formats record nothing to compare with
        """Compares the files with what is recorded of them, where that is.

        Raises:
            DamageFound: They are not what was written.
        """

    def read_all(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the name and the values of every array; raises as `read`."""
        return ((name, self.read(name)) for name in self.arrays)

    @abstractmethod
    def identity(self) -> str:
        """Returns a SHA-256 that is equal for equal files, for comparisons between processes."""

    @abstractmethod
    def describe(self) -> str:
        """Returns kind and path in words, for messages."""

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads an array in C order, as flat pieces that are small where the format allows it; raises as `read`."""
        yield self.read(name).reshape(-1)

    def streams(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Yields every array as its name and `pieces`; those of an array must be read before the next is taken."""
        for name in self.arrays:
            yield name, self.pieces(name)

    def fingerprint(self) -> str:
        """Computes a SHA-256 of names, shapes, dtypes and values, whatever the format, order and sharding of the files.

        It is that of a line `NAME DTYPE SHAPE SHA-256` for each array, in the order of their names. An array's own
        SHA-256 is that of its values in C order, little-endian. Biases that are all zero are left out, since formats
        whose layers always have biases write them for models without.
        """
        lines, arrays = {}, self.arrays
        for name, pieces in self.streams():
            values, has_value = hashlib.sha256(), not name.endswith("bias")
            for piece in pieces:
                content = np.ascontiguousarray(piece).astype(piece.dtype.newbyteorder("<"), copy=False).view(np.uint8)
                values.update(content.data)
                has_value = has_value or bool(content.any())
            if has_value:
                spec = arrays[name]
                lines[name] = f"{json.dumps(name)} {spec.dtype} {list(spec.shape)} {values.hexdigest()}\n"
        return hashlib.sha256("".join(lines[name] for name in sorted(lines)).encode()).hexdigest()


class SourceView(ParameterSource):
    """Parameters that are computed from those of another source: base class of views, which override `arrays` and `read`."""

    def __init__(self, source: ParameterSource):
        """Creates the view; nothing is read."""
        self.path, self.tokenizer, self._source = source.path, source.tokenizer, source

    def check_whole(self) -> None:
        """Compares the files of the source; see `ParameterSource.check_whole`."""
        self._source.check_whole()

    def identity(self) -> str:
        """Returns the identity of the source."""
        return self._source.identity()

    def describe(self) -> str:
        """Returns the description of the source."""
        return self._source.describe()
