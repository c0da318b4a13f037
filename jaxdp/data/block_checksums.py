"""CRC-32 checksums of the 1 MiB blocks of a file, kept in a second file next to it.

The largest cache files are read in places and never as a whole, so a checksum of the whole file could not be verified.
A CRC-32 detects every change of up to 32 adjacent bits, and other changes except for one in 2^32.
"""

import os
import zlib
from pathlib import Path

import numpy as np

BLOCK_BYTES = 1 << 20
SUFFIX = ".crc32"
"""Suffix that the file of checksums adds to the name of the file."""

_DTYPE = np.dtype("<u4")


def num_blocks(num_bytes: int) -> int:
    """Returns the number of blocks of a file of this size; the last one can be short."""
    return -(-num_bytes // BLOCK_BYTES)


def block_checksum(content: bytes | memoryview) -> int:
    """Returns the checksum of one block."""
    return zlib.crc32(content)


def write_block_checksums(path: Path) -> None:
    """Writes the checksums of a file into the file next to it."""
    checksums = []
    with open(path, "rb") as content:
        while block := content.read(BLOCK_BYTES):
            checksums.append(block_checksum(block))
    np.array(checksums, _DTYPE).tofile(f"{path}{SUFFIX}")


def read_block_checksums(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the checksums that `write_block_checksums` wrote: [num_blocks] uint32.

    Raises:
        OSError: The file of checksums cannot be read.
    """
    return np.fromfile(f"{path}{SUFFIX}", _DTYPE)
