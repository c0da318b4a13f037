"""Which tokens of a row a masked language model must guess, and what it sees instead."""

from typing import NamedTuple

import numpy as np

from jaxdp.data.random_bits import random_uniform, random_words

MASKED_SHARE, REPLACED_SHARE = 0.8, 0.1
"""Of the tokens to guess: those that the model sees as the mask, and as another token."""


class Masked(NamedTuple):
    """Rows with some tokens hidden.

    Attributes:
        tokens: [rows, length] int32, what the model sees.
        places: [rows, most] int32, where it must guess, in order; 0 where there is nothing.
        targets: [rows, most] int32, the tokens that stood there; 0 where there is nothing.
        is_target: [rows, most] bool, where there is something.
    """

    tokens: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    is_target: np.ndarray


def most_masked(length: int, rate: float) -> int:
    """The largest number of tokens of a row of `length` that are to be guessed."""
    return max(1, round(rate * length))


def mask_tokens(
    tokens: np.ndarray,
    is_text: np.ndarray,
    starts_word: np.ndarray | None,
    *,
    rate: float,
    most: int,
    mask_id: int,
    ordinary_ids: np.ndarray,
    seed: int,
    step: int,
    row_ids: np.ndarray,
) -> Masked:
    """Chooses tokens at random, whole words if asked for, and hides them.

    Of n tokens of text round(rate x n) are chosen, one at least. Words are drawn
    one by one, and one that is longer than what is left is passed over. Where every
    word is longer than all that may be chosen, one of the shortest is, if it has no
    more than `most` tokens. Of the chosen tokens 80 % are shown as the mask, 10 % as
    a random token, 10 % as they are, so that the model cannot rely on what it sees
    anywhere.

    Source: Devlin et al. 2019, BERT, section 3.1 and appendix A.1; anew at each
    step: Liu et al. 2019, RoBERTa, section 4.1; whole words: the authors' code of
    May 2019. Departs: the random token is never the mask or another special token;
    a row of long words alone has something to guess, where that code hides nothing.

    Args:
        tokens: [rows, length] int32.
        is_text: [rows, length] bool: what may be chosen.
        starts_word: [rows, length] bool: a token that does not goes with the one
            before it, if both are text; None: every token by itself.
        rate: share of the text to guess.
        most: of a row, `most_masked` of its length or more; never are more chosen.
        mask_id: the mask.
        ordinary_ids: [n] int32, the random token is one of them.
        seed: with step and row_ids, the key of everything random here.
        step:
        row_ids: [rows] integers.
    """
    num_rows, length = tokens.shape
    key = (seed, step, row_ids, length)
    word = _words(is_text, starts_word)
    sizes = np.zeros((num_rows, length), np.int64)
    np.add.at(sizes, (np.arange(num_rows)[:, None], word), is_text)
    shortest = np.where(sizes > 0, sizes, length).min(axis=1)
    budget = np.maximum(np.rint(rate * is_text.sum(axis=1)).astype(np.int64), shortest)
    chosen = np.take_along_axis(_choose(sizes, np.minimum(budget, most), random_uniform("masked words", *key)), word, 1)
    chosen &= is_text

    seen = tokens.copy()
    share = random_uniform("masked as", *key)
    seen[chosen & (share < MASKED_SHARE)] = mask_id
    replaced = chosen & (share >= MASKED_SHARE) & (share < MASKED_SHARE + REPLACED_SHARE)
    drawn = random_words("masked by", *key)[replaced]
    # The upper half of a word, as a fraction of 2^32, is even to within 2^-32 of the vocabulary.
    seen[replaced] = ordinary_ids[((drawn >> np.uint64(32)) * np.uint64(len(ordinary_ids))) >> np.uint64(32)]

    # Chosen places in order, to the front: sorting keeps the order of equals.
    order = np.argsort(~chosen, axis=1, kind="stable")[:, :most]
    is_target = np.take_along_axis(chosen, order, 1)
    places = np.where(is_target, order, 0).astype(np.int32)
    targets = np.where(is_target, np.take_along_axis(tokens, order, 1), 0)
    return Masked(seen, places, targets.astype(np.int32), is_target)


def _words(is_text: np.ndarray, starts_word: np.ndarray | None) -> np.ndarray:
    """The place at which each token's word begins, or before which no text stands: `[rows, length]`."""
    places = np.broadcast_to(np.arange(is_text.shape[1]), is_text.shape)
    if starts_word is None:
        return places
    return np.maximum.accumulate(np.where(is_text & ~starts_word, 0, places), axis=1)


def _choose(sizes: np.ndarray, budget: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Words in the order of their keys, as long as they fit: `[rows, length] bool`.

    Args:
        sizes: [rows, length] tokens of the word that begins there; 0: none does.
        budget: [rows] tokens to choose.
        keys: [rows, length].
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
