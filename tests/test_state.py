"""The state that training starts from."""

import jax
import numpy as np
import optax
import pytest
from tiny_training import bigram_params, topology

from jaxdp.state import initial_state


@pytest.mark.parametrize("with_ema", [False, True])
def test_state_0_counts_nothing_and_averages_the_parameters(with_ema):
    params = bigram_params()
    state = initial_state(params, optax.adam(1e-3), with_ema=with_ema)
    for count in (state.step, state.skipped, state.skipped_in_a_row):
        assert (count.dtype, count.shape, int(count)) == (np.int32, (), 0)
    assert state.sync == ()
    assert state.params is params
    assert state.ema is (params if with_ema else None)
    assert int(state.opt_state[0].count) == 0


def test_a_state_made_on_the_devices_shares_no_buffer():
    """The step takes all buffers over; one that two leaves share would be taken twice."""
    make = jax.jit(
        lambda params: initial_state(params, optax.adam(1e-3), with_ema=True),
        out_shardings=topology(2).replicated,
    )
    leaves = jax.tree.leaves(make(bigram_params()))
    pointers = [shard.data.unsafe_buffer_pointer() for leaf in leaves for shard in leaf.addressable_shards]
    assert len(set(pointers)) == len(pointers) == 2 * len(leaves)
