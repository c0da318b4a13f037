"""Hash of a batch: equal for equal data, however the rows are split over processes."""

import numpy as np

from jaxdp.data.random_bits import key_words, mix64
from jaxdp.typing import HostBatch


def batch_hash(batch: HostBatch, row_ids: np.ndarray) -> int:
    """Hashes rows of a global batch.

    The hash is a sum over rows, each salted with its number in the global batch. The hashes that processes compute
    of their own rows therefore add up, modulo 2^64, to the hash of the global batch, and exchanging the contents of
    two rows changes it.

    Args:
        batch: Arrays `[rows, ...]` by name. Names, dtypes and shapes count too; `row_ids` does not.
        row_ids: [rows] int32, the number of each row in the global batch.

    Returns:
        An integer from 0 to 2^64 - 1.
    """
    row_hashes = mix64(np.asarray(row_ids).astype(np.uint64) + np.uint64(1))
    for name in sorted(batch.keys() - {"row_ids"}):
        array = np.asarray(batch[name])
        words = _row_words(array)
        start, stride = key_words(name, array.dtype.str, *array.shape[1:])[:2]
        columns = start + np.arange(words.shape[1], dtype=np.uint64) * (stride | np.uint64(1))
        array_hashes = mix64(words + mix64(columns)).sum(axis=1, dtype=np.uint64)
        row_hashes = mix64(row_hashes + array_hashes)
    return int(row_hashes.sum(dtype=np.uint64))


def _row_words(array: np.ndarray) -> np.ndarray:
    """Returns the bytes of each row of `[rows, ...]` as words, padded with zeros: `[rows, words] uint64`."""
    num_rows = array.shape[0]
    row_bytes = array.nbytes // num_rows
    padded = np.zeros((num_rows, -(-row_bytes // 8) * 8), np.uint8)
    padded[:, :row_bytes] = np.ascontiguousarray(array).view(np.uint8).reshape(num_rows, row_bytes)
    return padded.view(np.uint64)
