"""Prepared examples on disk: named arrays of many examples, checked, written once and read on demand.

`Task.prepare` returns a few small arrays for one record. Arrays with an axis (token ids) are concatenated in flat files,
split into shards, with a file of offsets; those without (a label) are stored in order in one file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxdp.arguments import shown
from jaxdp.data.sequences.element_arrays import DiskArray, open_disk_array
from jaxdp.data.sequences.flat import RaggedArray, ShardedArray
from jaxdp.errors import UserError
from jaxdp.signatures import defined_in

INDEX = "index.json"
EXAMPLES_FORMAT = 2
"""Format number of the files that `ExamplesWriter` writes; part of the cache keys.

Raise it when their names, layout or content change for the same examples.
"""

SHARD_BYTES = 1 << 30
OFFSET_DTYPE = np.dtype("<i8")


class ExamplesWriter:
    """Appends examples to a directory; `close` writes the index that makes it readable.

    Args:
        directory: Empty directory.
        token_dtype: Dtype that ragged integer arrays are stored as, little-endian.
        terminators: For some ragged arrays a value that follows each document.
        shard_bytes: Size at which the next file begins.
    """

    def __init__(
        self,
        directory: Path,
        token_dtype: np.dtype,
        terminators: Mapping[str, int],
        shard_bytes: int = SHARD_BYTES,
    ):
        self._directory = directory
        self._token_dtype = np.dtype(token_dtype).newbyteorder("<")
        self._terminators = terminators
        self._shard_bytes = shard_bytes
        self._files: dict[str, BinaryIO] = {}
        self._arrays: dict[str, dict] = {}
        self._ends: dict[str, int] = {}  # number of values of each ragged array so far
        self.num_examples = 0

    def add(self, example: Mapping[str, np.ndarray], *, continues: bool = False) -> None:
        """Appends an example, or a piece of one that the next call continues (ragged arrays only)."""
        for name, array in example.items():
            array = np.asarray(array)
            if array.ndim == 0:
                if name not in self._arrays:
                    dtype = array.dtype.newbyteorder("<")
                    self._arrays[name] = {"dtype": dtype.str, "ragged": False}
                self._append(f"{name}.bin", array.astype(self._arrays[name]["dtype"]))
                continue
            self._add_ragged(name, array, continues)
        self.num_examples += not continues

    def _add_ragged(self, name: str, values: np.ndarray, continues: bool) -> None:
        if name not in self._arrays:
            self._arrays[name] = {"dtype": self._token_dtype.str, "ragged": True, "shards": [0]}
            self._ends[name] = 0
            self._append(f"{name}.offsets.bin", np.array(0, OFFSET_DTYPE))
        shards = self._arrays[name]["shards"]
        if not continues and name in self._terminators:
            values = np.append(values, self._terminators[name])
        if shards[-1] * self._token_dtype.itemsize >= self._shard_bytes:
            shards.append(0)
        self._append(f"{name}.{len(shards) - 1:05}.bin", values.astype(self._token_dtype))
        shards[-1] += values.size
        self._ends[name] += values.size
        if not continues:
            self._append(f"{name}.offsets.bin", np.array(self._ends[name], OFFSET_DTYPE))

    def _append(self, file_name: str, values: np.ndarray) -> None:
        if file_name not in self._files:
            self._files[file_name] = open(self._directory / file_name, "wb")  # noqa: SIM115
        self._files[file_name].write(values.tobytes())

    def close(self) -> None:
        """Closes the files; the examples added so far can be read."""
        for file in self._files.values():
            file.close()
        index = {"num_examples": self.num_examples, "arrays": self._arrays}
        (self._directory / INDEX).write_text(json.dumps(index), encoding="utf-8")


class Examples:
    """Examples of one split, read on demand.

    Args:
        directory: Directory that `ExamplesWriter` wrote.
        entry: Cache entry of the directory, whose checksums are verified; None: there are none.

    Attributes:
        num_examples: Number of examples.
        names: Names of the arrays that every example has.
    """

    def __init__(self, directory: Path, entry: Path | None = None):
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        self._directory, self._entry, self._arrays = directory, entry, index["arrays"]
        self._opened: dict[str, DiskArray] = {}
        self.num_examples: int = index["num_examples"]
        self.names: tuple[str, ...] = tuple(self._arrays)

    def is_ragged(self, name: str) -> bool:
        """Returns True if the array of this name has a different length in each example."""
        return self._arrays[name]["ragged"]

    def flat(self, name: str) -> ShardedArray:
        """Returns a ragged array of all examples, concatenated, terminators included."""
        entry = self._arrays[name]
        return ShardedArray(
            [
                self._array(f"{name}.{number:05}.bin", entry["dtype"], size)
                for number, size in enumerate(entry["shards"])
            ]
        )

    def ragged(self, name: str) -> RaggedArray:
        """Returns a ragged array with the offset of each example."""
        offsets = self._array(f"{name}.offsets.bin", OFFSET_DTYPE, self.num_examples + 1)
        return RaggedArray(self.flat(name), offsets)

    def scalars(self, name: str) -> np.ndarray:
        """Reads an array without axes as a whole: `[num_examples]`."""
        return self._array(f"{name}.bin", self._arrays[name]["dtype"], self.num_examples).to_numpy()

    def num_values(self, name: str) -> int:
        """Returns the number of elements of a ragged array over all examples, terminators included."""
        return sum(self._arrays[name]["shards"])

    def _array(self, file_name: str, dtype, size: int) -> DiskArray:
        if file_name not in self._opened:
            self._opened[file_name] = open_disk_array(self._directory / file_name, dtype, size, self._entry)
        return self._opened[file_name]


def check_example(prepare: Callable, example: Any) -> None:
    """Checks the arrays of one record.

    Args:
        prepare: The function that returned them, for the message.
        example: What it returned.

    Raises:
        UserError: It is no dict of numbers without axes and of arrays of whole numbers of at least 0 with one axis.
    """
    if not isinstance(example, Mapping) or not example:
        raise UserError(
            f'{_what(prepare)} must return a dict of arrays, such as {{"tokens": token ids}}, found {shown(example)}.'
        )
    for name, values in example.items():
        array = np.asarray(values)
        if array.dtype.kind not in ("biu" if array.ndim else "biuf") or array.ndim > 1:
            raise UserError(
                f"{_what(prepare)}: {name!r} must be one number or an array of whole numbers with one axis, found "
                f"{array.dtype} {list(array.shape)}."
            )
        if array.ndim and array.dtype.kind == "i" and array.size and array.min() < 0:
            raise UserError(
                f"{_what(prepare)}: {name!r} has the number {array.min()}, but the numbers of an array must be at least 0: "
                "use a mask of 0 and 1 for what does not count."
            )


def check_same_arrays(prepare: Callable, first: Mapping[str, Any], example: Mapping[str, Any]) -> None:
    """Raises UserError unless two records have arrays of the same names."""
    if first.keys() != example.keys():
        raise UserError(
            f"{_what(prepare)} must return the same arrays for every record, found {', '.join(first)} for the first and "
            f"{', '.join(example)} for another."
        )


def _what(prepare: Callable) -> str:
    return f"prepare of the task{defined_in(prepare)}"
