"""Documents longer than a sequence: detection, and truncation that keeps the learned tokens (`data.long_documents`)."""

import numpy as np

from jaxdp.data.sequences.flat import RaggedArray
from jaxdp.errors import UserError

LONG_DOCUMENTS = ("error", "cut", "drop")

CHUNK_DOCUMENTS = 1024
"""Number of long documents that are read at once."""


def find_long(lengths: np.ndarray, length: int, long_documents: str, key: str = "data.length") -> np.ndarray:
    """Finds the documents that are longer than a sequence.

    Args:
        lengths: [num_documents] integers, number of tokens of each document.
        length: Positions of a sequence.
        long_documents: Value of `data.long_documents`; only `error` makes a difference here.
        key: Configuration key of `length`, for messages.

    Returns:
        [num_documents] bool.

    Raises:
        UserError: `length` is below 1; `long_documents` is unknown, or is `error` and some documents are long.
    """
    if length < 1:
        raise UserError(f"{key}={length} is too short: expected 1 or more.")
    if long_documents not in LONG_DOCUMENTS:
        raise UserError(f"data.long_documents={long_documents!r} is unknown: expected {', '.join(LONG_DOCUMENTS)}.")
    is_long = lengths > length
    if long_documents == "error" and is_long.any():
        longest = int(lengths.argmax())
        raise UserError(
            f"{np.count_nonzero(is_long)} of {len(lengths)} documents are longer than {key}={length} "
            f"tokens, the longest being document {longest} (counted from 0) with {lengths[longest]}: set "
            f"data.long_documents to cut or drop, or raise {key}."
        )
    return is_long


def skips_before_learned(masks: RaggedArray, length: int, min_context: int) -> np.ndarray:
    """Counts the tokens to remove from the start of each long document so that its learned tokens stay.

    A document begins with context tokens, which are only read, and ends with learned tokens. The first context tokens
    are removed, as many as needed for the rest to fit. If the learned tokens alone are too long, a sequence has their
    beginning.

    Args:
        masks: 0 for the context tokens and 1 for the learned tokens of each document.
        length: Positions of a sequence, above `min_context`.
        min_context: Number of context tokens before the learned ones that are kept if there are as many.

    Returns:
        [num_documents] int64; 0 for documents that fit.
    """
    lengths = masks.lengths()
    skips = np.zeros(len(lengths), np.int64)
    is_long = np.flatnonzero(lengths > length)
    for first in range(0, len(is_long), CHUNK_DOCUMENTS):
        some = is_long[first : first + CHUNK_DOCUMENTS]
        learned, sizes = masks.take(some)
        num_context = sizes - np.add.reduceat(learned, np.cumsum(sizes) - sizes, dtype=np.int64)
        skips[some] = np.minimum(sizes - length, np.maximum(num_context - min_context, 0))
    return skips
