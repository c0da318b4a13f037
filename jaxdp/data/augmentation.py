"""Rows of text changed at random each time they are trained on.

A transform is a pure function of tokens and numbers that belong to the row: batch
and process make no difference, and a run that resumes draws the same again. Special
tokens stay where they are in the order of the text, so end of text stays the end.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxdp.data.random_bits import random_uniform
from jaxdp.errors import UserError
from jaxdp.typing import HostBatch

Draw = Callable[[str], np.ndarray]
"""A purpose -> [rows, length] float64 from 0 to below 1, different for each purpose."""


class Transform(Protocol):
    """What is done to the tokens of some rows."""

    def __call__(
        self, tokens: np.ndarray, is_text: np.ndarray, rate: float, blank_id: int, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray]:
        """Changes rows.

        Args:
            tokens: [rows, length] int32.
            is_text: [rows, length] bool: no special token, no padding.
            rate: share of the text that is changed.
            blank_id: the token that stands for none.
            draw: random numbers.

        Returns:
            (tokens [rows, length] int32, [rows, length] bool: which of them are left out).
        """


def _token_dropout(tokens, is_text, rate, blank_id, draw):
    """Each token becomes a blank with probability `rate`.

    Source: Xie et al. 2017, Data Noising as Smoothing in Neural Network Language
    Models, section 3.1 (blank noising).
    """
    blanked = is_text & (draw("token_dropout") < rate)
    return np.where(blanked, np.int32(blank_id), tokens), np.zeros_like(is_text)


def _random_deletion(tokens, is_text, rate, blank_id, draw):
    """Each token is left out with probability `rate`, but one of a row always stays.

    Source: Wei and Zou 2019, EDA, section 2.
    """
    numbers = draw("random_deletion")
    last = np.max(np.where(is_text, numbers, -1.0), axis=1, keepdims=True)  # kept whatever the rate
    return tokens, is_text & (numbers < rate) & (numbers < last)


def _random_swap(tokens, is_text, rate, blank_id, draw):
    """round(rate x n / 2) pairs of a row's n tokens change places, chosen without repetition.

    Source: Wei and Zou 2019, EDA, section 2. Departs: a token moves once at most.
    """
    num_text = is_text.sum(axis=1)
    num_pairs = np.minimum(np.rint(rate * num_text / 2).astype(np.int64), num_text // 2)
    order = np.argsort(np.where(is_text, draw("random_swap"), np.inf), axis=1)
    most = int(num_pairs.max(initial=0))
    row, pair = np.nonzero(np.arange(most) < num_pairs[:, None])
    left, right = order[row, 2 * pair], order[row, 2 * pair + 1]
    swapped = tokens.copy()
    swapped[row, left], swapped[row, right] = tokens[row, right], tokens[row, left]
    return swapped, np.zeros_like(is_text)


TRANSFORMS: dict[str, Transform] = {
    "token_dropout": _token_dropout,
    "random_deletion": _random_deletion,
    "random_swap": _random_swap,
}


@dataclass(frozen=True)
class Augmentation:
    """The transforms of `data.augmentation`, in their order.

    Attributes:
        steps: (name, rate) pairs.
        special_ids: tokens that are not touched.
        blank_id: see `Transform`.
    """

    steps: tuple[tuple[str, float], ...]
    special_ids: tuple[int, ...]
    blank_id: int

    def __call__(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> HostBatch:
        """Rows with their `tokens` changed; `num_tokens` follows what is left out.

        Args:
            examples: {"tokens": [rows, length] int32, "num_tokens": [rows] int32, ...}.
            seed: with step and row_ids, the key of everything random here.
            step:
            row_ids: [rows] integers.
        """
        tokens, num_tokens = examples["tokens"], examples["num_tokens"]
        length = tokens.shape[1]
        for number, (name, rate) in enumerate(self.steps):
            is_read = np.arange(length) < num_tokens[:, None]
            is_text = is_read & ~np.isin(tokens, self.special_ids)

            def draw(purpose: str, number: int = number) -> np.ndarray:
                return random_uniform(f"{purpose} {number}", seed, step, row_ids, length)

            tokens, left_out = TRANSFORMS[name](tokens, is_text, rate, self.blank_id, draw)
            tokens, num_tokens = _closed_up(tokens, is_read & ~left_out)
        return {**examples, "tokens": tokens, "num_tokens": num_tokens}


def make_augmentation(
    entries: Iterable[str], special_ids: Iterable[int], blank_id: int
) -> Augmentation | None:
    """What `data.augmentation` asks for; None for nothing.

    Args:
        entries: `token_dropout:RATE`, `random_deletion:RATE`, `random_swap:RATE`.
        special_ids: tokens that are not touched.
        blank_id: what token dropout shows: the mask where the tokenizer has one, else
            its end of text.

    Raises:
        UserError: an unknown transform, or a rate that is none.
    """
    steps = []
    for entry in entries:
        name, _, rate = entry.partition(":")
        try:
            number = float(rate)
        except ValueError:
            number = -1.0
        if name not in TRANSFORMS or not 0 <= number < 1:
            raise UserError(
                f"data.augmentation has {entry!r}; expected {', '.join(f'{known}:RATE' for known in TRANSFORMS)}, "
                "with a share from 0 to below 1, such as token_dropout:0.1."
            )
        steps.append((name, number))
    if not steps:
        return None
    return Augmentation(tuple(steps), tuple(sorted({*special_ids, blank_id})), blank_id)


def augmented(make_batch: Callable, augmentation: Augmentation | None) -> Callable:
    """`make_batch` of rows that are changed first; for training, not for evaluation.

    Args:
        make_batch: (examples, seed, step, row_ids) -> batch.
        augmentation: None: `make_batch` itself.
    """
    if augmentation is None:
        return make_batch

    def make_augmented(examples: HostBatch, seed: int, step: int, row_ids: np.ndarray):
        return make_batch(augmentation(examples, seed, step, row_ids), seed, step, row_ids)

    return make_augmented


def _closed_up(tokens: np.ndarray, is_kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept tokens in order at the front, then 0; and how many they are."""
    order = np.argsort(~is_kept, axis=1, kind="stable")
    kept = np.take_along_axis(np.where(is_kept, tokens, 0), order, 1)
    return kept, is_kept.sum(axis=1, dtype=np.int32)
