"""Parameter sources: named arrays of any kind of checkpoint, described without reading them and read one at a time."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdp.checksum import array_checksum


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
    """

    path: Path
    tokenizer: Path | None = None

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

    @abstractmethod
    def identity(self) -> str:
        """Returns a SHA-256 that is equal for equal files, for comparisons between processes."""

    @abstractmethod
    def describe(self) -> str:
        """Returns kind and path in words, for messages."""

    def fingerprint(self) -> str:
        """Computes a SHA-256 of names, shapes, dtypes and values, whatever the format, order and sharding of the files."""
        leaves = [
            [name, spec.dtype, list(spec.shape), self._checksum(name)] for name, spec in sorted(self.arrays.items())
        ]
        return hashlib.sha256(json.dumps(leaves).encode()).hexdigest()

    def _checksum(self, name: str) -> int:
        """Returns the checksum of an array's values."""
        return array_checksum(self.read(name))
