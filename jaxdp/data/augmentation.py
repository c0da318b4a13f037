"""Data augmentation: random changes of training tokens (token dropout, deletion, swap).

A transform is a pure function of tokens and random numbers of the row, so the result does not depend on batch or
process, and a resumed run repeats it. Special tokens keep their order, so end of text stays at the end.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxdp.data.random_bits import random_uniform
from jaxdp.errors import UserError
from jaxdp.typing import HostBatch

Sample = Callable[[str], np.ndarray]
"""Function from a purpose to uniform numbers in [0, 1), [rows, length] float64, independent for each purpose."""


class Transform(Protocol):
    """Change of the tokens of some rows."""

    def __call__(
        self, tokens: np.ndarray, is_text: np.ndarray, rate: float, blank_id: int, sample: Sample
    ) -> tuple[np.ndarray, np.ndarray]:
        """Changes rows.

        Args:
            tokens: [rows, length] int32.
            is_text: [rows, length] bool, True for neither special tokens nor padding.
            rate: Share of the text that is changed.
            blank_id: Token that replaces dropped tokens.
            sample: Source of random numbers.

        Returns:
            (tokens [rows, length] int32, [rows, length] bool: tokens that are removed).
        """
        ...


def _token_dropout(tokens, is_text, rate, blank_id, sample):
    """Replaces each token by a blank with probability `rate`.

    Source: Xie et al. 2017, Data Noising as Smoothing in Neural Network Language
    Models, section 3.1 (blank noising).
    """
    blanked = is_text & (sample("token_dropout") < rate)
    return np.where(blanked, np.int32(blank_id), tokens), np.zeros_like(is_text)


def _random_deletion(tokens, is_text, rate, blank_id, sample):
    """Removes each token with probability `rate`, but never all tokens of a row.

    Source: Wei and Zou 2019, EDA, section 2.
    """
    numbers = sample("random_deletion")
    last = np.max(np.where(is_text, numbers, -1.0), axis=1, keepdims=True)  # kept at any rate
    return tokens, is_text & (numbers < rate) & (numbers < last)


def _random_swap(tokens, is_text, rate, blank_id, sample):
    """Swaps round(rate * n / 2) pairs of the n tokens of a row, sampled without replacement.

    Source: Wei and Zou 2019, EDA, section 2.
    Differs: a token moves at most once.
    """
    num_text = is_text.sum(axis=1)
    num_pairs = np.minimum(np.rint(rate * num_text / 2).astype(np.int64), num_text // 2)
    order = np.argsort(np.where(is_text, sample("random_swap"), np.inf), axis=1)
    max_pairs = int(num_pairs.max(initial=0))
    row, pair = np.nonzero(np.arange(max_pairs) < num_pairs[:, None])
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
    """Transforms of `data.augmentation`, in order.

    Attributes:
        steps: (name, rate) pairs.
        special_ids: Tokens that are never changed.
        blank_id: See `Transform`.
    """

    steps: tuple[tuple[str, float], ...]
    special_ids: tuple[int, ...]
    blank_id: int

    def __call__(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> HostBatch:
        """Changes the `tokens` of examples; `num_tokens` counts those that remain.

        Args:
            examples: {"tokens": [rows, length] int32, "num_tokens": [rows] int32, ...}.
            seed: Seed of the run.
            step: Step of the batch.
            row_ids: [rows] integers, numbers of the rows in the global batch.
        """
        tokens, num_tokens = examples["tokens"], examples["num_tokens"]
        length = tokens.shape[1]
        for number, (name, rate) in enumerate(self.steps):
            is_read = np.arange(length) < num_tokens[:, None]
            is_text = is_read & ~np.isin(tokens, self.special_ids)

            def sample(purpose: str, number: int = number) -> np.ndarray:
                return random_uniform(f"{purpose} {number}", seed, step, row_ids, length)

            tokens, left_out = TRANSFORMS[name](tokens, is_text, rate, self.blank_id, sample)
            tokens, num_tokens = _compacted(tokens, is_read & ~left_out)
        return {**examples, "tokens": tokens, "num_tokens": num_tokens}


def make_augmentation(entries: Iterable[str], special_ids: Iterable[int], blank_id: int) -> Augmentation | None:
    """Builds the transforms of `data.augmentation`; None if there are none.

    Args:
        entries: `token_dropout:RATE`, `random_deletion:RATE`, `random_swap:RATE`.
        special_ids: Tokens that are never changed.
        blank_id: Token that token dropout inserts: the mask token if the tokenizer has one, else end of text.

    Raises:
        UserError: A transform is unknown, or a rate is invalid.
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
    """Wraps `make_batch` so that rows are changed first; for training, not for evaluation.

    Args:
        make_batch: Function (examples, seed, step, row_ids) -> batch.
        augmentation: Transforms; None returns `make_batch` itself.
    """
    if augmentation is None:
        return make_batch

    def make_augmented(examples: HostBatch, seed: int, step: int, row_ids: np.ndarray):
        return make_batch(augmentation(examples, seed, step, row_ids), seed, step, row_ids)

    return make_augmented


def _compacted(tokens: np.ndarray, is_kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves kept tokens to the front, in order, and pads with 0; returns the tokens and their number."""
    order = np.argsort(~is_kept, axis=1, kind="stable")
    kept = np.take_along_axis(np.where(is_kept, tokens, 0), order, 1)
    return kept, is_kept.sum(axis=1, dtype=np.int32)
