"""Transforms of rows: what they change, how often, and that nothing but the key decides."""

import numpy as np
import pytest

from jaxdp.data.augmentation import augmented, make_augmentation
from jaxdp.errors import UserError

LENGTH, END, BLANK = 30, 0, 3


def rows_of(num_rows=400, seed=0):
    """Texts of 1 to 29 tokens from 10 on, each ended by 0; then padding."""
    random = np.random.default_rng(seed)
    num_tokens = random.integers(2, LENGTH + 1, num_rows).astype(np.int32)
    tokens = random.integers(10, 90, (num_rows, LENGTH), dtype=np.int32)
    tokens[np.arange(num_rows), num_tokens - 1] = END
    tokens[np.arange(LENGTH) >= num_tokens[:, None]] = 0
    return {"tokens": tokens, "num_tokens": num_tokens, "label": np.arange(num_rows)}


def change(rows, *entries, seed=0, step=0, row_ids=None):
    row_ids = np.arange(len(rows["tokens"])) if row_ids is None else np.asarray(row_ids)
    return make_augmentation(entries, (END, 1, 2), BLANK)(rows, seed, step, row_ids)


def texts(rows):
    return [row[:count].tolist() for row, count in zip(rows["tokens"], rows["num_tokens"], strict=True)]


def test_token_dropout_blanks_its_share():
    rows = rows_of()
    changed = change(rows, "token_dropout:0.2")
    blanked = changed["tokens"] != rows["tokens"]
    assert (changed["tokens"][blanked] == BLANK).all()
    assert blanked.sum() / (rows["tokens"] >= 10).sum() == pytest.approx(0.2, abs=0.025)
    np.testing.assert_array_equal(changed["num_tokens"], rows["num_tokens"])
    assert changed["label"] is rows["label"]


def test_random_deletion_leaves_out_its_share_and_never_all():
    rows = rows_of()
    for rate in (0.2, 0.99):
        changed = change(rows, f"random_deletion:{rate}")
        num_left = 0
        for before, after in zip(texts(rows), texts(changed), strict=True):
            assert after[-1] == END and len(after) >= 2
            places = iter(before)
            assert all(token in places for token in after)  # a subsequence
            num_left += len(after) - 1
        share = num_left / (rows["tokens"] >= 10).sum()
        if rate == 0.2:
            assert share == pytest.approx(0.8, abs=0.03)
        is_padding = np.arange(LENGTH) >= changed["num_tokens"][:, None]
        assert not changed["tokens"][is_padding].any()


def test_random_swap_moves_its_share_in_pairs():
    rows = rows_of()
    changed = change(rows, "random_swap:0.3")
    for before, after in zip(texts(rows), texts(changed), strict=True):
        assert sorted(before) == sorted(after) and after[-1] == END
        moved = [place for place in range(len(before)) if before[place] != after[place]]
        assert len(moved) <= 2 * round(0.3 * (len(before) - 1) / 2)
        for place in moved:  # each goes where another comes from
            assert any(after[other] == before[place] and before[other] == after[place] for other in moved)
    num_moved = (changed["tokens"] != rows["tokens"]).sum()
    assert num_moved / (rows["tokens"] >= 10).sum() == pytest.approx(0.3, abs=0.03)


def test_rows_of_padding_and_of_one_token():
    rows = {"tokens": np.zeros((2, LENGTH), np.int32), "num_tokens": np.array([0, 1], np.int32)}
    rows["tokens"][1, 0] = 10
    for entry in ("random_deletion:0.9", "random_swap:0.9"):
        assert texts(change(rows, entry)) == [[], [10]]


ALL = ("token_dropout:0.1", "random_deletion:0.1", "random_swap:0.2")


def test_steps_seeds_and_rows_draw_anew_and_all_else_changes_nothing():
    rows = rows_of()
    whole = change(rows, *ALL, seed=4, step=2)
    part = change({name: array[[9, 5]] for name, array in rows.items()}, *ALL, seed=4, step=2, row_ids=[9, 5])
    np.testing.assert_array_equal(part["tokens"], whole["tokens"][[9, 5]])
    wider = change(rows | {"tokens": np.pad(rows["tokens"], ((0, 0), (0, 6)))}, *ALL, seed=4, step=2)
    np.testing.assert_array_equal(wider["tokens"][:, :LENGTH], whole["tokens"])
    for other in ({"seed": 5, "step": 2}, {"seed": 4, "step": 3}):
        assert (change(rows, *ALL, **other)["tokens"] != whole["tokens"]).any(axis=1).mean() > 0.8


def test_a_transform_given_twice_draws_twice():
    rows = rows_of()
    twice = (change(rows, "token_dropout:0.3", "token_dropout:0.3")["tokens"] == BLANK).sum()
    assert twice / (rows["tokens"] >= 10).sum() == pytest.approx(1 - 0.7**2, abs=0.03)


def test_training_batches_are_made_of_changed_rows():
    rows = rows_of(8)
    augmentation = make_augmentation(ALL, (END,), BLANK)
    assert 1 not in augmentation.special_ids and BLANK in augmentation.special_ids
    make = augmented(lambda *arguments: arguments, augmentation)
    examples, *key = make(rows, 1, 2, np.arange(8))
    np.testing.assert_array_equal(examples["tokens"], augmentation(rows, 1, 2, np.arange(8))["tokens"])
    assert key[:2] == [1, 2]
    assert augmented(make, None) is make and make_augmentation((), (END,), BLANK) is None


@pytest.mark.parametrize(
    "entry", ["dropout:0.1", "random_swap", "random_swap:x", "random_swap:1", "token_dropout:-0.1"]
)
def test_entries_that_are_none_are_refused(entry):
    with pytest.raises(UserError, match=rf"data\.augmentation has '{entry}'; expected token_dropout:RATE, "):
        make_augmentation((entry,), (END,), BLANK)
