"""Dynamic masking: how much, what, and that nothing but the key decides."""

import numpy as np
import pytest

from jaxdp.tasks.masking import mask_tokens, max_masked

LENGTH, MASK_ID, VOCAB_SIZE, RATE = 40, 3, 50, 0.15
ORDINARY = np.arange(4, VOCAB_SIZE, dtype=np.int32)


def rows_of(num_rows, seed=0):
    """Random tokens; special ones at the ends and here and there, padding after them."""
    random = np.random.default_rng(seed)
    tokens = random.integers(4, VOCAB_SIZE, (num_rows, LENGTH), dtype=np.int32)
    tokens[random.random(tokens.shape) < 0.05] = 1
    tokens[:, 0] = 1
    num_tokens = random.integers(2, LENGTH + 1, num_rows)
    tokens[np.arange(LENGTH) >= num_tokens[:, None]] = 0
    return tokens


def mask(tokens, starts_word=None, rate=RATE, seed=0, step=0, row_ids=None):
    return mask_tokens(
        tokens,
        tokens >= 4,
        starts_word,
        rate=rate,
        max_targets=max_masked(tokens.shape[1], rate),
        mask_id=MASK_ID,
        ordinary_ids=ORDINARY,
        seed=seed,
        step=step,
        row_ids=np.arange(len(tokens)) if row_ids is None else row_ids,
    )


def test_places_and_targets_are_those_of_the_text():
    tokens = rows_of(200)
    masked = mask(tokens)
    for row in range(len(tokens)):
        places = masked.positions[row][masked.is_target[row]]
        num_text = int((tokens[row] >= 4).sum())
        assert len(places) == min(max(round(RATE * num_text), 1), num_text)
        assert (np.diff(places) > 0).all() and (tokens[row][places] >= 4).all()
        np.testing.assert_array_equal(masked.targets[row][masked.is_target[row]], tokens[row][places])
        others = np.setdiff1d(np.arange(LENGTH), places)
        np.testing.assert_array_equal(masked.tokens[row][others], tokens[row][others])
        assert not masked.positions[row][~masked.is_target[row]].any()
        assert not masked.targets[row][~masked.is_target[row]].any()
    assert masked.positions.shape == (200, 6) and masked.tokens.dtype == np.int32


def test_every_token_is_chosen_as_often_and_shown_in_the_published_shares():
    tokens = np.tile(np.arange(10, 10 + LENGTH, dtype=np.int32), (5000, 1))
    masked = mask(tokens)
    assert masked.is_target.all()
    chosen = np.bincount(masked.positions.ravel(), minlength=LENGTH) / 5000
    np.testing.assert_allclose(chosen, 6 / LENGTH, atol=0.025)  # five standard deviations
    shown = np.take_along_axis(masked.tokens, masked.positions, 1)
    is_mask, is_same = shown == MASK_ID, shown == masked.targets
    assert is_mask.mean() == pytest.approx(0.8, abs=0.012)
    assert is_same.mean() == pytest.approx(0.1 + 0.1 / len(ORDINARY), abs=0.009)
    random = shown[~is_mask & ~is_same]
    assert set(random) == set(ORDINARY.tolist())
    np.testing.assert_allclose(np.bincount(random - 4) / len(random), 1 / len(ORDINARY), atol=0.014)


def test_a_row_without_text_has_nothing_to_guess():
    masked = mask(np.ones((2, LENGTH), np.int32))
    assert not masked.is_target.any() and (masked.tokens == 1).all()


def test_one_token_of_text_is_always_guessed():
    tokens = np.ones((50, LENGTH), np.int32)
    tokens[:, 7] = 20
    masked = mask(tokens)
    assert masked.is_target.sum() == 50 and (masked.positions[:, 0] == 7).all()


def test_steps_seeds_and_rows_draw_anew_and_all_else_changes_nothing():
    tokens = rows_of(30)
    whole = mask(tokens, seed=5, step=9)
    for left, right in zip(mask(tokens[[7, 3]], seed=5, step=9, row_ids=[7, 3]), whole, strict=True):
        np.testing.assert_array_equal(left, right[[7, 3]])
    wider = mask(np.pad(tokens, ((0, 0), (0, 8))), seed=5, step=9)
    np.testing.assert_array_equal(wider.tokens[:, :LENGTH], whole.tokens)
    for other in (mask(tokens, seed=6, step=9), mask(tokens, seed=5, step=10)):
        assert (other.positions != whole.positions).mean() > 0.3
    same = np.tile(tokens[:1], (30, 1))
    assert len({row.tobytes() for row in mask(same).positions}) > 20


def test_whole_words_are_chosen_whole_and_never_too_many():
    tokens = rows_of(300, seed=1)
    starts_word = np.random.default_rng(2).random(tokens.shape) < 0.5
    masked = mask(tokens, starts_word, rate=0.3)
    num_chosen = 0
    for row in range(len(tokens)):
        places = set(masked.positions[row][masked.is_target[row]].tolist())
        words, is_text = [], tokens[row] >= 4
        for place in range(LENGTH):
            if is_text[place] and place and is_text[place - 1] and not starts_word[row, place]:
                words[-1].add(place)
            elif is_text[place]:
                words.append({place})
        assert all(word <= places or not word & places for word in words)
        budget = max(round(0.3 * is_text.sum()), min(map(len, words), default=0))
        left = budget - len(places)
        # Nothing that is left out would still have fitted.
        assert left >= 0 and all(word <= places or len(word) > left for word in words)
        num_chosen += len(places)
    assert num_chosen > 0.27 * (tokens >= 4).sum()


def test_a_row_of_long_words_has_one_of_the_shortest_to_guess():
    sizes = (2, 3, 2)
    tokens = np.tile(np.arange(10, 17, dtype=np.int32), (60, 1))
    starts_word = np.zeros(tokens.shape, bool)
    starts_word[:, np.cumsum((0, *sizes[:-1]))] = True
    options = {"mask_id": MASK_ID, "ordinary_ids": ORDINARY, "seed": 0, "step": 0, "row_ids": np.arange(60)}
    masked = mask_tokens(tokens, tokens >= 4, starts_word, rate=RATE, max_targets=3, **options)
    places = [tuple(row[is_target].tolist()) for row, is_target in zip(masked.positions, masked.is_target, strict=True)]
    assert set(places) == {(0, 1), (5, 6)}
    masked = mask_tokens(tokens, tokens >= 4, starts_word, rate=RATE, max_targets=1, **options)
    assert not masked.is_target.any() and (masked.tokens == tokens).all()  # a half word is none


def test_words_of_one_token_are_tokens():
    tokens = rows_of(20)
    for left, right in zip(mask(tokens, np.ones(tokens.shape, bool)), mask(tokens), strict=True):
        np.testing.assert_array_equal(left, right)
