import numpy as np
import pytest

from jaxdp.data.preparing.split import SplitPosition, split_parts, split_point
from jaxdp.errors import UserError


@pytest.mark.parametrize("num_characters, fraction", [(993, 0.1), (2, 0.5), (1000, 0.999), (10, 0.01)])
def test_one_document_is_cut_at_nanogpts_character(num_characters, fraction):
    position = split_parts([num_characters], [num_characters], [False], fraction)
    assert position == (0, 0, int(num_characters * (1 - fraction)))


@pytest.mark.parametrize(
    "sizes, fraction, num_train",
    [
        ([1] * 10, 0.1, 9),
        ([1] * 10, 0.25, 7),  # 7.5 of 10, rounded down
        ([5, 90, 5], 0.1, 2),  # 95 is nearer to 90 than 5 is
        ([100, 1], 0.5, 1),
        ([1, 100], 0.1, 1),  # one on each side
        ([3, 30], 0.9, 1),
        ([0, 0, 5, 5, 0], 0.5, 3),  # the first of several equal ones
        ([0, 5, 0, 5], 0.8, 2),
        ([5, 5, 0], 0.01, 1),  # the last part has nothing to evaluate on
    ],
)
def test_several_are_split_where_the_characters_come_nearest(sizes, fraction, num_train):
    assert split_parts(sizes, [], [], fraction) == (num_train, 0, 0)
    assert split_parts([sum(sizes)], sizes, [False] * len(sizes), fraction) == (0, num_train, 0)
    assert split_parts([0, sum(sizes), 0], sizes, [False] * len(sizes), fraction) == (1, num_train, 0)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.75])
def test_one_document_in_pieces_is_cut_as_if_it_were_whole(fraction):
    pieces = [7, 5, 0, 9, 3]
    position = split_parts([24], pieces, [True] * 4 + [False], fraction)
    assert position.part == 0 and position.character < pieces[position.record]
    assert sum(pieces[: position.record]) + position.character == int(24 * (1 - fraction))


def test_documents_in_pieces_stay_whole():
    sizes, continues = [4, 4, 4, 4, 4], [True, True, False, True, False]
    for fraction in (0.1, 0.5, 0.9):
        assert split_parts([20], sizes, continues, fraction) == (0, 3, 0)


def test_dropped_records_count_but_have_no_characters():
    # One document is left, so it is cut; a dropped piece is part of it.
    assert split_parts([10], [0, 10, 0], [False] * 3, 0.5) == (0, 1, 5)
    assert split_parts([10], [0, 6, 4, 0], [True, True, False, False], 0.2) == (0, 2, 2)


def test_against_trying_every_boundary():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(0, 10, rng.integers(2, 12))
        if np.count_nonzero(sizes) < 2:
            continue
        fraction = rng.uniform(0.05, 0.95)
        total = sizes.sum()
        if not 0 < int(total * (1 - fraction)) < total:
            continue
        before = split_parts([total], sizes, np.zeros(len(sizes), bool), fraction).record
        best = min(
            (n for n in range(1, len(sizes)) if 0 < sizes[:n].sum() < total),
            key=lambda n: (abs(sizes[:n].sum() - int(total * (1 - fraction))), n),
        )
        assert before == best


def test_positions_compare():
    assert SplitPosition(0, 5, 9) < SplitPosition(1, 0, 0) < SplitPosition(1, 0, 1) <= (1, 1, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_eval_fraction_out_of_range(fraction):
    with pytest.raises(UserError, match=r"data\.eval_fraction"):
        split_point(100, fraction)


def test_nothing_left_on_one_side():
    with pytest.raises(UserError, match=r"data\.eval_fraction=0\.9 of 1 "):
        split_parts([1], [1], [False], 0.9)
    with pytest.raises(UserError, match=r"data\.eval_fraction=0\.1 of 0 "):
        split_parts([0, 0], [], [], 0.1)


def test_counts_must_agree():
    with pytest.raises(ValueError, match="their part has 5"):
        split_parts([5], [1, 1], [False, False], 0.5)
