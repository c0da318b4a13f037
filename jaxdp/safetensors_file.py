"""Safetensors files: header, writing of arrays one at a time, and reading of single arrays or of some of their rows.

Format: https://github.com/huggingface/safetensors#format - the length of the header as 8 bytes little-endian, a JSON
header, and the arrays in C order.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 and the float8 types with NumPy
import numpy as np

from jaxdp.json_files import parse_json

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""NumPy dtypes by their names in the format."""

PIECE_BYTES = 2**24
"""Bytes of an array that are read at once."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 64
"""The position of the first array in bytes is a multiple of this number, so that XLA uses mapped arrays without a copy of them."""


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

    @property
    def num_bytes(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def read_header(path: Path) -> dict[str, Entry]:
    """Reads the header of a file: name -> entry.

    Raises:
        ValueError: The file is not a safetensors file, or ends before its arrays do.
    """
    with open(path, "rb") as file:

        def read(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        return parse_header(path.stat().st_size, read)


def parse_header(size: int, read: Callable[[int, int], bytes]) -> dict[str, Entry]:
    """Parses the header of a file that is read in ranges.

    Args:
        size: Size of the file in bytes.
        read: Function from position and count to these bytes.

    Raises:
        ValueError: As `read_header`.
    """
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else 0
    if size < 8 or length > size - 8:
        raise ValueError(f"its header is longer than the file, which has {size:,} bytes")
    header = parse_json(read(8, length))
    try:
        entries = {
            name: Entry(DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        end = max((entry.offset + entry.num_bytes for entry in entries.values()), default=0)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its header is not understood: {error!r}") from error
    if end > size:
        raise ValueError(f"it ends before its arrays do: it has {size:,} bytes, and its header describes {end:,}")
    return entries


def write_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, without a copy of them in memory.

    Raises:
        OSError: The file cannot be written.
    """
    write_arrays(path, {name: (str(array.dtype), array.shape) for name, array in arrays.items()}, arrays.__getitem__)


def write_arrays(
    path: Path,
    specs: Mapping[str, tuple[str, Iterable[int]]],
    make: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays that are made one at a time, so that memory holds one.

    Args:
        path: Path of the file.
        specs: Name -> (dtype, shape) of each array.
        make: Function from a name to its array.
        metadata: Entry `__metadata__` of the header; None: no such entry.

    Raises:
        OSError: The file cannot be written.
        ValueError: An array is of another dtype or shape than announced.
    """
    header: dict = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in specs.items():
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (dtype, shape) in specs.items():
            array = make(name)
            if str(array.dtype) != dtype or array.shape != tuple(shape):
                raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, announced {dtype}{list(shape)}")
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


def map_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Maps the arrays of a file read-only and yields name and array: pages are read when they are used, and can be dropped.

    Raises:
        ValueError: As `read_header`.
    """
    for name, entry in read_header(path).items():
        # An empty range cannot be mapped.
        mode = {"mode": "r", "offset": entry.offset, "shape": entry.shape}
        yield name, np.memmap(path, entry.dtype, **mode) if entry.num_bytes else np.empty(entry.shape, entry.dtype)


def read_pieces(path: Path, entry: Entry, piece_bytes: int = PIECE_BYTES) -> Iterator[np.ndarray]:
    """Reads an array of a file as flat pieces of at most this many bytes, in C order; raises as `read_array`."""
    size, item_bytes = math.prod(entry.shape), np.dtype(entry.dtype).itemsize
    step = max(piece_bytes // item_bytes, 1)
    for start in range(0, size, step):
        count = min(step, size - start)
        yield read_array(path, Entry(entry.dtype, (count,), entry.offset + start * item_bytes))


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
