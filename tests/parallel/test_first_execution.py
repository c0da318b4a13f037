"""First executions of programs on GPUs, here with the CPU as a platform that needs them alone."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import topology

from jaxdp.parallel import first_execution
from jaxdp.parallel.first_execution import FirstExecution, outside_first_executions, transfer
from jaxdp.parallel.placement import abstract_batch, place_batch, place_per_device
from jaxdp.parallel.spmd import compile_spmd

SECS = 20.0  # longest wait for what must happen
MOMENT = 0.2  # wait for what must not happen


@pytest.fixture
def like_a_gpu(monkeypatch):
    """The CPU is treated as a GPU."""
    monkeypatch.setattr(first_execution, "PLATFORMS", frozenset({"cpu"}))
    monkeypatch.setattr(first_execution, "_in_transfer", [])


class SlowCall:
    """A program that runs until it is told to end."""

    def __init__(self):
        self.started, self.may_end = threading.Event(), threading.Event()

    def __call__(self, *arguments):
        self.started.set()
        assert self.may_end.wait(SECS)
        return jnp.zeros(())


class FakeArray:
    """Array on its way to the devices; an execution must wait until it is there."""

    def __init__(self, deleted=False):
        self.waited, self.ready, self.deleted = 0, False, deleted

    def is_ready(self):
        return self.ready

    def is_deleted(self):
        return self.deleted

    def block_until_ready(self):
        self.waited += 1
        self.ready = True
        return self


def started(function):
    """Starts a thread; returns it with an event that is set when the function has returned."""
    done = threading.Event()

    def run():
        function()
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, done


def add_one(here):
    return compile_spmd(
        lambda batch: batch["rows"] + 1,
        here,
        abstract_batch({"rows": jax.ShapeDtypeStruct((1,), jnp.int32)}, here),
        out_axes=0,
    )


@pytest.mark.parametrize("other", ["placement", "work of another thread", "first execution"])
def test_nothing_starts_during_a_first_execution(like_a_gpu, other):
    slow, first = SlowCall(), FirstExecution("cpu")

    def work():
        with outside_first_executions("cpu"):
            pass

    others = {
        "placement": lambda: place_per_device(np.zeros((2, 3)), topology(2)),
        "work of another thread": work,
        "first execution": lambda: FirstExecution("cpu")(lambda: jnp.ones(())),
    }
    running, ended = started(lambda: first(slow))
    assert slow.started.wait(SECS)
    thread, done = started(others[other])
    assert not done.wait(MOMENT)
    slow.may_end.set()
    assert ended.wait(SECS) and done.wait(SECS)
    running.join(SECS)
    thread.join(SECS)
    assert not first.is_pending


def test_a_first_execution_waits_for_transfers(like_a_gpu):
    """For those that have begun and not ended; a later execution waits for none."""
    arriving, arrived, deleted = FakeArray(), FakeArray(), FakeArray(deleted=True)
    for array in (arriving, arrived, deleted):
        assert transfer(lambda array=array: array, "cpu") is array
    arrived.ready = True
    first = FirstExecution("cpu")
    first(lambda: jnp.zeros(()))
    assert (arriving.waited, arrived.waited, deleted.waited) == (1, 0, 0)
    assert first_execution._in_transfer == []


def test_ended_transfers_are_forgotten(like_a_gpu):
    """The memory of their arrays is free."""
    arrays = [FakeArray() for _ in range(4)]
    for array in arrays:
        transfer(lambda array=array: array, "cpu")
        array.ready = True
    assert first_execution._in_transfer == arrays[-1:]


def test_only_the_first_execution_of_a_program_is_alone(like_a_gpu, monkeypatch):
    """It waits for its results; the ones after it return at once."""
    here = topology(2)
    program = add_one(here)
    batch = place_batch({"rows": np.arange(2, dtype=np.int32)}, here)
    blocked = []
    block = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: blocked.append(tree) or block(tree))
    assert program.first_execution.is_pending
    for _ in range(3):
        np.testing.assert_array_equal(program(batch), [[1], [2]])
        assert not program.first_execution.is_pending
        assert len(blocked) == 2  # the arguments and the results of the first execution
    with first_execution._DEVICES:  # another program is at its first execution
        np.testing.assert_array_equal(program(batch), [[1], [2]])


def test_a_failed_first_execution_is_tried_alone_again(like_a_gpu):
    first = FirstExecution("cpu")

    def fails():
        raise RuntimeError("capturing stream has unjoined work")

    with pytest.raises(RuntimeError, match="unjoined"):
        first(fails)
    assert first.is_pending and not first_execution._DEVICES.locked()


def test_cpus_take_no_part():
    """Programs and placements there wait for nothing, and keep nothing."""
    here = topology(2)
    with first_execution._DEVICES:
        batch = place_batch({"rows": np.arange(2, dtype=np.int32)}, here)
        program = add_one(here)
        assert not program.first_execution.is_pending
        np.testing.assert_array_equal(program(batch), [[1], [2]])
        with outside_first_executions("cpu"), outside_first_executions("tpu"):
            pass
    assert first_execution._in_transfer == []
