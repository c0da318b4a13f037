"""Counter-based random bits in NumPy: a 64-bit mixer, key derivation, and random numbers of each row of a batch.

All of them are pure functions of their keys, equal on every machine. The random numbers of a row depend on the
purpose, the seed, the step and the number of the row in the global batch, so they do not depend on how a batch is
split over processes, and a resumed run samples the same numbers again.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd


def mix64(values: np.ndarray) -> np.ndarray:
    """Maps 64-bit words by a bijection in which every input bit affects every output bit.

    Args:
        values: uint64 array of any shape.

    Returns:
        uint64 array of the same shape.

    Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number
    Generators, section 5; constants of Stafford's variant 13.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_words(*key: int | str) -> np.ndarray:
    """Derives eight words from a key, equal on every machine.

    Returns:
        [8] uint64.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=64).digest()
    return np.frombuffer(digest, "<u8")


def random_words(purpose: str, seed: int, step: int, row_ids: np.ndarray, num: int) -> np.ndarray:
    """Samples 64-bit words for each row.

    Args:
        purpose: Name of the purpose; the numbers of two purposes are independent.
        seed: Seed of the run.
        step: Step of the batch.
        row_ids: [rows] integers, the number of each row in the global batch.
        num: Number of words per row; the first words do not depend on it.

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
    """Samples uniform numbers in [0, 1) for each row, `[rows, num] float64`; arguments as for `random_words`."""
    return (random_words(purpose, seed, step, row_ids, num) >> np.uint64(11)) * 2.0**-53
