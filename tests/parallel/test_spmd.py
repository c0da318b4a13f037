"""The compiled SPMD program, by pmap and by shard_map."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import TinyStep, assert_equal_trees, bigram_loss, local, topology, uneven_batch

from jaxdp.errors import UserError
from jaxdp.parallel import spmd
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import BACKENDS, VARIABLE, compile_spmd

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    """Each backend in turn, as the environment selects it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, request.param)
        yield request.param


@pytest.fixture(scope="module")
def scaled_sum(backend):
    """(scale, {"rows"}) -> (scale + 1, scale x the sum of all rows), on four devices."""

    def function(scale, batch):
        assert scale.shape == (3,)  # true shapes inside
        assert batch["rows"].shape == (2, 3)
        total = jax.lax.psum(batch["rows"].sum(axis=0), AXIS)
        return scale + 1, scale * total

    here = topology(4)
    return compile_spmd(
        function,
        here,
        abstract_replicated(jax.ShapeDtypeStruct((3,), jnp.float32), here),
        abstract_batch({"rows": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, here),
        donated=(0,),
    )


def test_a_program_sees_every_row_once_and_returns_true_shapes(scaled_sum):
    here = topology(4)
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    scale = jax.device_put(np.array([1, 2, 3], np.float32), here.replicated)
    following, total = scaled_sum(scale, place_batch({"rows": rows}, here))
    np.testing.assert_array_equal(total, np.array([1, 2, 3]) * rows.sum(axis=0))
    np.testing.assert_array_equal(following, [2, 3, 4])
    for result in (following, total):
        assert result.sharding.is_equivalent_to(here.replicated, 1)
    assert scale.is_deleted()


def test_memory_and_time_are_known_before_the_first_call(scaled_sum):
    arguments, results = 4 * 3 + 4 * 6, 4 * 3 + 4 * 3
    assert arguments + results - 4 * 3 <= scaled_sum.device_bytes < 4096
    assert scaled_sum.compile_secs > 0


def test_other_shapes_are_refused_and_not_compiled(scaled_sum):
    here = topology(4)
    scale = jax.device_put(np.ones(3, np.float32), here.replicated)
    with pytest.raises(TypeError):
        scaled_sum(scale, place_batch({"rows": np.zeros((16, 3), np.float32)}, here))


def test_mapped_results_keep_the_axis_of_devices(backend):
    here = topology(2)
    program = compile_spmd(
        lambda batch: batch["rows"] + jax.lax.axis_index(AXIS),
        here,
        abstract_batch({"rows": jax.ShapeDtypeStruct((2,), jnp.int32)}, here),
        out_axes=0,
    )
    result = program(place_batch({"rows": np.zeros(4, np.int32)}, here))
    np.testing.assert_array_equal(result, [[0, 0], [1, 1]])


def test_the_environment_selects_the_function_of_jax(backend, monkeypatch):
    other, *_ = BACKENDS.keys() - {backend}

    def refuse(*arguments, **options):
        raise AssertionError(f"{other} is called")

    if other == "pmap":
        monkeypatch.setattr(jax, "pmap", refuse)
    monkeypatch.setitem(BACKENDS, other, refuse)
    here = topology(2)
    compile_spmd(
        lambda x: jax.lax.psum(x, AXIS), here, abstract_batch({"x": jax.ShapeDtypeStruct((), jnp.int32)}, here)
    )


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "pjit")
    with pytest.raises(UserError, match=r"JAXDP_SPMD=pjit is unknown; set it to one of: pmap, shard_map\."):
        spmd.backend_name()


def noisy_loss(params, rows, row_keys):
    """The loss of parameters that are multiplied by a random number of the row."""
    factor = jax.vmap(jax.random.uniform)(row_keys).mean()
    return bigram_loss(jax.tree.map(lambda leaf: leaf * (0.5 + factor), params), rows, row_keys)


@pytest.mark.parametrize("strategy", [None, lambda: local(4, period=2)], ids=["pmean", "local"])
def test_five_steps_are_bitwise_the_same(strategy, monkeypatch):
    """With replicated state, and with parameters that differ between the devices."""
    ends = []
    for name in BACKENDS:
        monkeypatch.setenv(VARIABLE, name)
        step = TinyStep(8, 2, loss=noisy_loss, strategy=strategy and strategy())
        state, metrics = step.fresh_state(), []
        for number in range(5):
            state, found = step(state, uneven_batch(seed=number))
            metrics.append(found)
        ends.append((state, metrics))
    (expected, expected_metrics), (state, metrics) = ends
    assert_equal_trees(metrics, expected_metrics)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
        for left, right in zip(one.addressable_shards, other.addressable_shards, strict=True):
            np.testing.assert_array_equal(left.data, right.data)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "test_step.py", "test_golden_losses.py", "tasks/test_task_conformance.py", "training/test_resume.py",
        "training/test_elasticity.py", "training/test_sharded_training.py", "training/test_sharded_resume.py",
        "training/test_strategy_resume.py", "cli/test_sharded_processes.py",
    ],
)  # fmt: skip
def test_the_equivalences_of_the_suite_hold_under_shard_map(path):
    command = [sys.executable, "-m", "pytest", str(TESTS / path), "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "-m", "not slow"], env=os.environ | {VARIABLE: "shard_map"}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
