"""Safetensors files: header, writing one array after another, and reading of single arrays or of some of their rows.

Format: https://github.com/huggingface/safetensors#format - the length of the header as 8 bytes little-endian, a JSON
header, and the arrays in C order.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdp.json_files import parse_json

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""NumPy dtypes by their names in the format."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True)
class Entry:
    """Array of a file.

    Attributes:
        dtype: NumPy dtype.
        shape: Shape.
        offset: Position of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_header(path: Path) -> dict[str, Entry]:
    """Reads the header of a file: name -> entry.

    Raises:
        ValueError: The file is not a safetensors file.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = parse_json(file.read(length))
    try:
        return {
            name: Entry(DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its header is not understood: {error!r}") from error


def write_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, without a copy of them in memory.

    Raises:
        OSError: The file cannot be written.
    """
    header, offset = {}, 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": _NAMES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(_bytes_of(np.ascontiguousarray(array)))


def read_array(path: Path, entry: Entry, rows: slice = slice(None)) -> np.ndarray:
    """Reads an array of a file, or some of its rows (axis 0).

    Raises:
        OSError: The file cannot be read, or is too short.
    """
    start, stop, _ = rows.indices(entry.shape[0]) if entry.shape else (0, 1, 1)
    shape = (stop - start, *entry.shape[1:]) if entry.shape else ()
    array = np.empty(shape, entry.dtype)
    row_bytes = math.prod(entry.shape[1:]) * array.itemsize
    with open(path, "rb", buffering=0) as file:
        file.seek(entry.offset + start * row_bytes)
        left = _bytes_of(array)
        while left.nbytes:
            count = file.readinto(left)
            if not count:
                raise OSError(f"{path} ends before an array does")
            left = left[count:]
    return array


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
