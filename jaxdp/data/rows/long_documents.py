"""What to do about a document with more tokens than a row has places."""

import numpy as np

from jaxdp.errors import UserError

LONG_DOCUMENTS = ("error", "cut", "drop")


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
