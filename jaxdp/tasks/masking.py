"""Token masking for masked language modelling (BERT, RoBERTa), with whole-word masking."""

from typing import NamedTuple

import numpy as np

from jaxdp.data.random_bits import random_uniform, random_words

MASKED_SHARE, REPLACED_SHARE = 0.8, 0.1
"""Shares of the target tokens that are replaced by the mask and by a random token."""


class Masked(NamedTuple):
    """Sequences with masked tokens.

    Attributes:
        tokens: [rows, length] int32, inputs of the model.
        positions: [rows, max_targets] int32, positions of the targets, ascending; 0 for padding.
        targets: [rows, max_targets] int32, original tokens; 0 for padding.
        is_target: [rows, max_targets] bool, False for padding.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    is_target: np.ndarray


def max_masked(length: int, rate: float) -> int:
    """Returns the maximum number of masked tokens of a sequence of `length` tokens."""
    return max(1, round(rate * length))


def mask_tokens(
    tokens: np.ndarray,
    is_text: np.ndarray,
    starts_word: np.ndarray | None,
    *,
    rate: float,
    max_targets: int,
    mask_id: int,
    ordinary_ids: np.ndarray,
    seed: int,
    step: int,
    row_ids: np.ndarray,
) -> Masked:
    """Masks random tokens, or whole words.

    Of n text tokens round(rate x n) are chosen, at least one. Words are sampled one by
    one; a word that is longer than the remaining budget is skipped. If every word is
    longer than the budget, one of the shortest is chosen, provided that it has at most
    `max_targets` tokens. Of the chosen tokens 80 % become the mask, 10 % a random token,
    and 10 % stay, so that the model cannot trust any input token.

    Source: Devlin et al. 2019, BERT, section 3.1 and appendix A.1; dynamic masking:
    Liu et al. 2019, RoBERTa, section 4.1; whole words: the authors' code of May 2019.
    Differs: the random token is never a special token; a sequence of long words has a
    target, where that code masks nothing.

    Args:
        tokens: [rows, length] int32.
        is_text: [rows, length] bool, tokens that may be chosen.
        starts_word: [rows, length] bool; a token with False belongs to the word of the
            token before it, if both are text; None: every token is a word.
        rate: share of the text tokens to choose.
        max_targets: maximum number of chosen tokens of a sequence, at least `max_masked`.
        mask_id: id of the mask token.
        ordinary_ids: [n] int32, ids that random tokens are sampled from.
        seed: part of the random key.
        step: part of the random key.
        row_ids: [rows] integers, part of the random key.
    """
    num_rows, length = tokens.shape
    key = (seed, step, row_ids, length)
    word = _words(is_text, starts_word)
    sizes = np.zeros((num_rows, length), np.int64)
    np.add.at(sizes, (np.arange(num_rows)[:, None], word), is_text)
    shortest = np.where(sizes > 0, sizes, length).min(axis=1)
    budget = np.maximum(np.rint(rate * is_text.sum(axis=1)).astype(np.int64), shortest)
    chosen = np.take_along_axis(
        _choose(sizes, np.minimum(budget, max_targets), random_uniform("masked words", *key)), word, 1
    )
    chosen &= is_text

    seen = tokens.copy()
    share = random_uniform("masked as", *key)
    seen[chosen & (share < MASKED_SHARE)] = mask_id
    replaced = chosen & (share >= MASKED_SHARE) & (share < MASKED_SHARE + REPLACED_SHARE)
    sampled = random_words("masked by", *key)[replaced]
    # The upper 32 bits, as a fraction of 2^32, are uniform over the vocabulary to within 2^-32.
    seen[replaced] = ordinary_ids[((sampled >> np.uint64(32)) * np.uint64(len(ordinary_ids))) >> np.uint64(32)]

    # A stable sort moves the chosen positions to the front and keeps their order.
    order = np.argsort(~chosen, axis=1, kind="stable")[:, :max_targets]
    is_target = np.take_along_axis(chosen, order, 1)
    positions = np.where(is_target, order, 0).astype(np.int32)
    targets = np.where(is_target, np.take_along_axis(tokens, order, 1), 0)
    return Masked(seen, positions, targets.astype(np.int32), is_target)


def _words(is_text: np.ndarray, starts_word: np.ndarray | None) -> np.ndarray:
    """Returns the position of the first token of each token's word, `[rows, length]`."""
    positions = np.broadcast_to(np.arange(is_text.shape[1]), is_text.shape)
    if starts_word is None:
        return positions
    return np.maximum.accumulate(np.where(is_text & ~starts_word, 0, positions), axis=1)


def _choose(sizes: np.ndarray, budget: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Chooses words in the order of their keys while they fit the budget.

    Args:
        sizes: [rows, length] number of tokens of the word that begins at a position; 0 if none does.
        budget: [rows] number of tokens to choose.
        keys: [rows, length] random keys.

    Returns:
        [rows, length] bool, True at the first position of each chosen word.
    """
    order = np.argsort(np.where(sizes > 0, keys, np.inf), axis=1)
    ordered = np.take_along_axis(sizes, order, 1)
    fits = np.zeros(sizes.shape, bool)
    left = budget.copy()
    for rank in range(sizes.shape[1]):
        if not left.any():
            break
        size = ordered[:, rank]
        fits[:, rank] = (size > 0) & (size <= left)
        left -= size * fits[:, rank]
        left *= size > 0  # no more words
    chosen = np.zeros(sizes.shape, bool)
    np.put_along_axis(chosen, order, fits, 1)
    return chosen
