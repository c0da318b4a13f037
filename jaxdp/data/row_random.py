"""Random numbers that belong to a row of a batch, not to who makes it.

They are a pure function of what they are for, the seed, the step and the row's
number: the same on every machine and in every process, however the rows of a
batch are dealt out, and drawn again alike when a run resumes.
"""

import numpy as np

from jaxdp.data.hashing import key_words, mix64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd


def random_words(purpose: str, seed: int, step: int, row_ids: np.ndarray, num: int) -> np.ndarray:
    """64 random bits each.

    Args:
        purpose: different purposes have independent numbers.
        seed: of the run.
        step: of the batch.
        row_ids: [rows] integers, the rows' numbers in the global batch.
        num: how many of each row; the first ones do not depend on it.

    Returns:
        [rows, num] uint64.

    Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number
    Generators, section 5: each row has a stream of its own.
    """
    start, stride = key_words(purpose, int(seed), int(step))[:2]
    rows = np.asarray(row_ids).astype(np.uint64)
    streams = mix64(start + rows * (stride | np.uint64(1)))
    counts = np.arange(1, num + 1, dtype=np.uint64) * _GOLDEN
    return mix64(streams[:, None] + counts[None, :])


def random_uniform(purpose: str, seed: int, step: int, row_ids: np.ndarray, num: int) -> np.ndarray:
    """Numbers from 0 to below 1, evenly distributed: `[rows, num] float64`; see `random_words`."""
    return (random_words(purpose, seed, step, row_ids, num) >> np.uint64(11)) * 2.0**-53
