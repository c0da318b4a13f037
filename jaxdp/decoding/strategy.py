"""Decoding strategies: common interface of sampling and beam search."""

from collections.abc import Callable

import jax

from jaxdp.decoding.beam import BeamSearch, make_beam_search
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.eos import EosId
from jaxdp.decoding.sampling import Sampling
from jaxdp.typing import PyTree

DecodingStrategy = BeamSearch | Sampling


def make_decode_function(
    apply: Callable,
    make_cache: Callable[[int, int], PyTree],
    strategy: DecodingStrategy,
    *,
    num_new: int,
    eos_id: EosId,
) -> Callable[[PyTree, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Builds decode(params, batch) of `make_beam_search` or `make_decode`.

    Beam search ignores the entries `seeds` and `offset` of the batch.
    """
    if isinstance(strategy, BeamSearch):
        return make_beam_search(apply, make_cache, strategy, num_new=num_new, eos_id=eos_id)
    return make_decode(apply, make_cache, strategy, num_new=num_new, eos_id=eos_id)
