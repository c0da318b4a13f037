"""Numbers that belong to a row: a function of their key alone, and well spread."""

import hashlib

import numpy as np

from jaxdp.data.random_bits import key_words, mix64, random_uniform, random_words

ROWS = np.arange(64, dtype=np.int32)
MASK = 2**64 - 1


def mixed(value):
    """The bijection of `mix64` in Python integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def test_mix64_is_splitmix():
    values = [0, 1, 2**63, MASK, 0x9E3779B97F4A7C15]
    assert mix64(np.array(values, np.uint64)).tolist() == [mixed(value) for value in values]
    # The first number of SplitMix64 with seed 0, as published with it.
    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def test_words_of_a_fixed_key():
    """Permutations of runs that resume, and masks, depend on them."""
    assert key_words("a", 1)[:2].tolist() == [0xDBB7CE00DDA6D405, 0x1503871C9DF6D25E]


def test_the_numbers_are_splitmix_streams():
    digest = hashlib.blake2b(b"masks/7/12", digest_size=64).digest()
    start, stride = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little") | 1
    words = random_words("masks", 7, 12, ROWS, 5)
    for row in (0, 1, 63):
        stream = mixed((start + row * stride) & MASK)
        expected = [mixed((stream + (i + 1) * 0x9E3779B97F4A7C15) & MASK) for i in range(5)]
        assert words[row].tolist() == expected


def test_a_row_has_its_numbers_in_any_batch_and_for_any_count():
    whole = random_words("masks", 0, 3, ROWS, 20)
    np.testing.assert_array_equal(random_words("masks", 0, 3, ROWS[[5, 2]], 7), whole[[5, 2], :7])


def test_every_part_of_the_key_matters():
    drawn = [
        random_words(*key, ROWS, 4).tobytes()
        for key in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 10, 0), ("a", 1, 00))
    ]
    assert len(set(drawn)) == 5 and drawn[2] == drawn[5]


def test_uniform_numbers_fill_the_unit_interval_evenly():
    values = random_uniform("masks", 0, 0, np.arange(1000), 100)
    assert values.dtype == np.float64 and values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, 20, (0, 1))[0]
    # Pearson's statistic over 20 bins: 19 on average, above 60 once in 10^6.
    assert ((counts - 5000) ** 2 / 5000).sum() < 60
    # Neighbours within a row and neighbouring rows are unrelated: |r| is about 0.003.
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.015
