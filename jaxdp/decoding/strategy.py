"""Decoding strategies: texts are drawn token by token, or searched for with beams; one interface for both."""

from collections.abc import Callable

import jax
import numpy as np

from jaxdp.decoding.beam import BeamSearch, make_beam_search
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.typing import PyTree

Strategy = BeamSearch | Sampling


def make_strategy(
    apply: Callable,
    make_cache: Callable[[int, int], PyTree],
    strategy: Strategy,
    *,
    num_new: int,
    eos_id: int,
) -> Callable[[PyTree, dict[str, jax.Array]], dict[str, jax.Array]]:
    """The function (params, batch) -> texts of `make_beam_search` or of `make_decode`.

    A batch may have what only one of them reads, `seeds` and `offset`.
    """
    make = make_beam_search if isinstance(strategy, BeamSearch) else make_decode
    return make(apply, make_cache, strategy, num_new=num_new, eos_id=eos_id)


def until_end(tokens: np.ndarray, eos_id: int) -> np.ndarray:
    """Of a text `[num_new] int32` that was written, what stands before its end."""
    ends = np.flatnonzero(tokens == eos_id)
    return tokens[: ends[0]] if ends.size else tokens
