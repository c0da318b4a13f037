"""Placement of a state whose strategy keeps values of its own: on disk and back, and initialised where a checkpoint lacks them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdp.parallel.devices import Topology
from jaxdp.parallel.host_blocks import true_shapes
from jaxdp.parallel.layout import PER_DEVICE, REPLICATED, sharded
from jaxdp.parallel.state_placement import StatePlacement
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.state import initial_state

OPTIMIZER = optax.adam(0.1)
PARAMS = {"kernel": jnp.arange(16.0).reshape(8, 2), "bias": jnp.ones(3)}


@dataclasses.dataclass(frozen=True)
class Keeping(Pmean):
    """`pmean` that keeps a value per device, a sharded one and a replicated one."""

    def init(self, params):
        return {"late_gradients": jax.tree.map(jnp.zeros_like, params), "shard": params["kernel"] + 1, "mean": params}

    def layout(self, shapes):
        per_device = jax.tree.map(lambda _: PER_DEVICE, shapes.sync["late_gradients"])
        mean = jax.tree.map(lambda _: REPLICATED, shapes.sync["mean"])
        return super().layout(shapes).replace(sync={"late_gradients": per_device, "shard": sharded(0), "mean": mean})


@pytest.fixture(params=[8, 2])
def placement(request):
    topology = Topology(tuple(jax.devices()[: request.param]), num_processes=1, process_index=0)
    strategy = Keeping(request.param)

    def initialise(params):
        return initial_state(params, OPTIMIZER, with_ema=True, sync=strategy.init(params))

    return StatePlacement(strategy, topology, jax.eval_shape(lambda: PARAMS), initialise)


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def changed(state):
    """Other values everywhere, different on each device where there is one per device."""
    return jax.tree.map(
        lambda leaf: jax.device_put(
            (leaf + np.arange(leaf.size).reshape(leaf.shape)).astype(leaf.dtype), leaf.sharding
        ),
        state,
    )


def test_a_state_returns_bitwise_from_its_form_on_disk(placement):
    state = changed(placement.around(PARAMS))
    saved = placement.to_portable(state)
    assert jax.tree.map(lambda leaf: leaf.shape, saved) == jax.tree.map(lambda leaf: leaf.shape, placement.portable)
    assert true_shapes(saved, placement.portable_layout).sync["shard"].shape == (8, 2)
    num_devices = saved.sync["late_gradients"]["bias"].shape[0]
    np.testing.assert_array_equal(saved.sync["late_gradients"]["bias"].ravel(), np.arange(3 * num_devices))
    assert_same(placement.from_portable(saved), state)


@pytest.mark.parametrize("missing", [["late_gradients"], ["shard", "mean"], ["late_gradients", "shard", "mean"]])
def test_parts_that_a_checkpoint_lacks_are_initialised_around_its_parameters(placement, missing):
    state = changed(placement.around(PARAMS))
    saved = placement.to_portable(state)
    kept = {part: value for part, value in saved.sync.items() if part not in missing}
    restored = placement.from_portable(saved.replace(sync=kept))
    assert_same(restored.replace(sync=()), state.replace(sync=()))
    fresh = placement.around(state.params).sync
    assert_same(restored.sync, {part: fresh[part] if part in missing else state.sync[part] for part in fresh})
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (restored, placement.abstract))
    assert shardings[0] == shardings[1]
