"""Special tokens around a text, as an encoder expects them."""

from collections.abc import Sequence

import numpy as np

CLASS, SEPARATOR = "[CLS]", "[SEP]"
"""What stands before and after a text in BERT's rows (Devlin et al. 2019, section 3)."""


def frame(
    text: np.ndarray,
    num_text: np.ndarray,
    is_row: np.ndarray,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Puts tokens before and after each text.

    Args:
        text: [rows, places] int32, padded at the end.
        num_text: [rows] integers, tokens of each text, at most `places`.
        is_row: [rows] bool; False: a row of padding, which gets nothing.
        before: ids in front of each text.
        after: ids behind it.

    Returns:
        ([rows, places + len(before) + len(after)] int32, padded with 0;
        the same shape bool, what is no padding).
    """
    rows, places = text.shape
    length = len(before) + places + len(after)
    tokens = np.zeros((rows, length), np.int32)
    tokens[:, : len(before)] = before
    tokens[:, len(before) : len(before) + places] = text
    end = len(before) + np.asarray(num_text, np.int64)
    is_read = np.arange(length) < (end + len(after))[:, None]
    is_read &= is_row[:, None]
    for number, token in enumerate(after):
        tokens[np.arange(rows), end + number] = token
    return np.where(is_read, tokens, 0), is_read
