"""Persistent compilation cache: where it is, and that a second start reads SPMD programs from it instead of compiling them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxdp.cache_home import cache_home
from jaxdp.parallel import devices
from jaxdp.parallel.devices import AXIS, init_devices
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd

EVENTS = []
"""Events of JAX since this file was imported."""

jax.monitoring.register_event_listener(lambda event, **_: EVENTS.append(event))


def counted():
    """Programs that were read from the cache and that were compiled, since the last call."""
    found = [EVENTS.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses")]
    EVENTS.clear()
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, which keeps programs however fast they compile."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    counted()
    yield tmp_path / "xla"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def started(factor=2.0):
    """Compiles a program with donation and a collective as the first start of a process does; its result and its memory."""
    jax.clear_caches()
    topology = init_devices()

    def step(state, batch):
        return state + factor * jax.lax.psum(batch["x"][0], AXIS)

    spec = {"x": jax.ShapeDtypeStruct((1, 3), jnp.float32)}
    state = jax.device_put(jnp.ones(3), topology.replicated)
    abstract = jax.ShapeDtypeStruct(state.shape, state.dtype, sharding=topology.replicated)
    program = compile_spmd(step, topology, abstract, abstract_batch(spec, topology), donated=(0,))
    batch = place_batch({"x": np.ones((topology.num_local_devices, 3), np.float32)}, topology)
    counts = counted()
    return np.asarray(program(state, batch)).tolist(), program.device_bytes, counts


def test_a_second_start_compiles_no_program_again(cache):
    result, size, counts = started()
    assert result == [17.0] * 3 and counts[1] >= 1
    again = started()
    assert again[:2] == (result, size) and again[2] == [sum(counts), 0]
    _, _, changed = started(factor=3.0)
    assert changed[1] == 1  # another program


def test_the_cache_is_next_to_the_prepared_data_unless_the_user_says_otherwise(cache, tmp_path):
    devices._configure_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(cache)
    jax.config.update("jax_compilation_cache_dir", None)
    devices._configure_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(cache_home() / "xla")
