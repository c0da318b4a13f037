"""Special tokens of encoder inputs by the names of the tokenizer: before and after a text, and the mask."""

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

CLASS, SEPARATOR, MASK = "[CLS]", "[SEP]", "[MASK]"


class Frame(NamedTuple):
    """Names of the special tokens of an encoder.

    Attributes:
        before: Token before a text.
        after: Token after it.
        mask: Token in place of those to predict.
        mask_takes_blank: Whether the blanks before a mask belong to it (`lstrip` of the added token).
    """

    before: str
    after: str
    mask: str
    mask_takes_blank: bool = False


BERT_FRAME = Frame(CLASS, SEPARATOR, MASK)
"""Source: Devlin et al. 2019, section 3. Tokenizers that are trained here have these names."""

ROBERTA_FRAME = Frame("<s>", "</s>", "<mask>", mask_takes_blank=True)
"""Source: Liu et al. 2019 (RoBERTa) and Conneau et al. 2020 (XLM-R), released tokenizers."""


def frame_of(names: Container[str]) -> Frame | None:
    """Returns the frame that a tokenizer with these special tokens has; None: neither."""
    frames = (BERT_FRAME, ROBERTA_FRAME)
    return next((frame for frame in frames if frame.before in names and frame.after in names), None)


def encoder_frame(names: Container[str]) -> Frame | None:
    """Returns the frame of an encoder's tokenizer; None: it has none. Decoders such as Llama 2 have `<s>` and `</s>` without a mask."""
    frame = frame_of(names)
    return None if frame == ROBERTA_FRAME and ROBERTA_FRAME.mask not in names else frame


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
