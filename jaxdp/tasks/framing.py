"""Special tokens around the texts of encoder inputs: [CLS] and [SEP]."""

from collections.abc import Sequence

import numpy as np

CLASS, SEPARATOR = "[CLS]", "[SEP]"
"""Tokens before and after a text in the inputs of BERT (Devlin et al. 2019, section 3)."""


def frame(
    text: np.ndarray,
    num_text: np.ndarray,
    is_row: np.ndarray,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Puts tokens before and after each text.

    Args:
        text: [rows, capacity] int32, padded at the end.
        num_text: [rows] integers, number of tokens of each text, at most `capacity`.
        is_row: [rows] bool; False for rows of padding, which get no tokens.
        before: ids before each text.
        after: ids after each text.

    Returns:
        ([rows, capacity + len(before) + len(after)] int32 tokens, padded with 0;
        attention mask of the same shape, bool).
    """
    rows, capacity = text.shape
    length = len(before) + capacity + len(after)
    tokens = np.zeros((rows, length), np.int32)
    tokens[:, : len(before)] = before
    tokens[:, len(before) : len(before) + capacity] = text
    end = len(before) + np.asarray(num_text, np.int64)
    is_read = np.arange(length) < (end + len(after))[:, None]
    is_read &= is_row[:, None]
    for number, token in enumerate(after):
        tokens[np.arange(rows), end + number] = token
    return np.where(is_read, tokens, 0), is_read
