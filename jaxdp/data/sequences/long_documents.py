"""What to do about a document with more tokens than a row has places."""

import numpy as np

from jaxdp.data.sequences.flat import RaggedArray
from jaxdp.errors import UserError

LONG_DOCUMENTS = ("error", "cut", "drop")

CHUNK_DOCUMENTS = 1024
"""Long documents that are looked into at once."""


def find_long(
    lengths: np.ndarray, length: int, long_documents: str, key: str = "data.length"
) -> np.ndarray:
    """Which documents are longer than a row.

    Args:
        lengths: [num_documents] integers, tokens of each.
        length: places of a row.
        long_documents: `data.long_documents`; only `error` makes a difference here.
        key: of the configuration, that gives `length`.

    Returns:
        [num_documents] bool.

    Raises:
        UserError: length is below 1; `long_documents` is unknown, or is `error` and
            there are some.
    """
    if length < 1:
        raise UserError(f"{key}={length} is too short: expected 1 or more.")
    if long_documents not in LONG_DOCUMENTS:
        raise UserError(
            f"data.long_documents={long_documents!r} is unknown: expected {', '.join(LONG_DOCUMENTS)}."
        )
    is_long = lengths > length
    if long_documents == "error" and is_long.any():
        longest = int(lengths.argmax())
        raise UserError(
            f"{np.count_nonzero(is_long)} of {len(lengths)} documents are longer than {key}={length} "
            f"tokens, the longest being document {longest} (counted from 0) with {lengths[longest]}: set "
            f"data.long_documents to cut or drop, or raise {key}."
        )
    return is_long


def skips_before_learned(masks: RaggedArray, length: int, least_read: int) -> np.ndarray:
    """How many of its first tokens a long document loses, so that what is learned of it stays.

    A document begins with tokens that are only read, and ends with those that are
    learned. It loses the first of those that are read, as many as it must for the rest to
    fit; if what is learned is too long by itself, a row has the beginning of that.

    Args:
        masks: of each document, 0 for tokens that are read and 1 for those that are learned.
        length: places of a row, above `least_read`.
        least_read: tokens before the learned ones that stay where there are so many.

    Returns:
        [num_documents] int64; 0 for those that fit.
    """
    lengths = masks.lengths()
    skips = np.zeros(len(lengths), np.int64)
    is_long = np.flatnonzero(lengths > length)
    for first in range(0, len(is_long), CHUNK_DOCUMENTS):
        some = is_long[first : first + CHUNK_DOCUMENTS]
        learned, sizes = masks.take(some)
        num_read = sizes - np.add.reduceat(learned, np.cumsum(sizes) - sizes, dtype=np.int64)
        skips[some] = np.minimum(sizes - length, np.maximum(num_read - least_read, 0))
    return skips
