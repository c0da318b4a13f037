"""States so small that a test can save many, and what saves them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdp.checkpoint.retention import Retention
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import abstract_replicated
from jaxdp.state import initial_state

OPTIMIZER = optax.adam(0.1)


def topology(num_devices=8):
    return Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)


def make_state(step, num_columns=3):
    """A state whose every value depends on the step."""
    params = {"kernel": jnp.arange(2.0 * num_columns).reshape(2, num_columns) + step, "bias": jnp.full(3, step / 3)}
    state = initial_state(params, OPTIMIZER, with_ema=True).replace(
        step=jnp.int32(step), ema=jax.tree.map(lambda leaf: 2 * leaf, params)
    )
    return jax.device_put(state, topology().replicated)


def abstract(num_columns=3, num_devices=8):
    return abstract_replicated(jax.eval_shape(lambda: make_state(0, num_columns)), topology(num_devices))


@pytest.fixture
def make_writer(tmp_path):
    """Writers into tmp_path/checkpoints; closed at the end, whatever a pending save has to say."""
    writers = []

    def make(retention=None, async_save=True, **options):
        retention = retention or Retention(keep_latest=9)
        writers.append(
            CheckpointWriter(tmp_path / "checkpoints", retention, abstract(), async_save=async_save, **options)
        )
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


@pytest.fixture
def checkpoints(tmp_path, make_writer):
    return tmp_path / "checkpoints"


def save(writer, step, metrics=None):
    writer.save(step, make_state(step), {"step": step}, {"seed": step}, metrics or {})


def assert_is_state(state, step):
    expected = make_state(step)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == wanted.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(wanted).tobytes()
