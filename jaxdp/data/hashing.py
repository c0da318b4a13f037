"""Hashes of batches: equal hashes, equal data, whatever holds the rows."""

import hashlib
import os

import numpy as np

from jaxdp.json_files import open_regular
from jaxdp.typing import HostBatch

END_BYTES = 1 << 20
"""What `file_digest` reads at once."""


def mix64(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every input bit reaches every output bit.

    Args:
        values: any shape, uint64.

    Returns:
        The same shape, uint64.

    Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number
    Generators, section 5; constants of Stafford's variant 13.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_words(*key: int | str) -> np.ndarray:
    """Eight words that are a function of the key, the same on every machine.

    Returns:
        [8] uint64.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=64).digest()
    return np.frombuffer(digest, "<u8")


def file_digest(path: str | os.PathLike, *, ends_only: bool = False) -> str:
    """Returns the hexadecimal SHA-256 of a regular file's size and content.

    Args:
        path: the file.
        ends_only: of the content the first and the last MiB alone: the rest may be more than a start can wait for.

    Raises:
        OSError: there is no such file, or something else in its place.
    """
    with open_regular(path) as content:
        size = os.fstat(content.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        if ends_only:
            digest.update(content.read(END_BYTES))
            content.seek(max(size - END_BYTES, min(size, END_BYTES)))
        while block := content.read(END_BYTES):
            digest.update(block)
    return digest.hexdigest()


def row_words(array: np.ndarray) -> np.ndarray:
    """The bytes of each row of `[rows, ...]` as words, zero-padded: `[rows, words] uint64`."""
    num_rows = array.shape[0]
    row_bytes = array.nbytes // num_rows
    padded = np.zeros((num_rows, -(-row_bytes // 8) * 8), np.uint8)
    padded[:, :row_bytes] = np.ascontiguousarray(array).view(np.uint8).reshape(num_rows, row_bytes)
    return padded.view(np.uint64)


def batch_hash(batch: HostBatch, row_ids: np.ndarray) -> int:
    """The hash of some rows of a global batch.

    It is a sum over rows, each salted with its global row number. So the hashes
    that processes compute of their own rows add up, modulo 2^64, to the hash of
    the global batch, and swapping the contents of two rows changes it.

    Args:
        batch: arrays `[rows, ...]` by name; names, dtypes and shapes count too;
            `row_ids` among them is left out.
        row_ids: [rows] int32, each row's number in the global batch.

    Returns:
        An integer from 0 to 2^64 - 1.
    """
    row_hashes = mix64(np.asarray(row_ids).astype(np.uint64) + np.uint64(1))
    for name in sorted(batch.keys() - {"row_ids"}):
        array = np.asarray(batch[name])
        words = row_words(array)
        start, stride = key_words(name, array.dtype.str, *array.shape[1:])[:2]
        columns = start + np.arange(words.shape[1], dtype=np.uint64) * (stride | np.uint64(1))
        array_hashes = mix64(words + mix64(columns)).sum(axis=1, dtype=np.uint64)
        row_hashes = mix64(row_hashes + array_hashes)
    return int(row_hashes.sum(dtype=np.uint64))
