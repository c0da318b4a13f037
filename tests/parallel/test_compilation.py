"""Compilation: at the same time where the compiler leaves the devices alone, its error where the program is needed."""

import threading

import jax
import jax.numpy as jnp
import pytest

from jaxdp.parallel.compilation import Compilation
from jaxdp.parallel.devices import init_devices
from jaxdp.parallel.placement import abstract_batch
from jaxdp.parallel.spmd import compile_spmd


class Lowered:
    """A lowered program whose compilation is `compile`."""

    def __init__(self, compile):
        self.compile = compile


def test_programs_compile_at_the_same_time():
    meeting = threading.Barrier(2, timeout=60)  # broken if one compiles after the other
    programs = [Compilation(Lowered(meeting.wait), "cpu") for _ in range(2)]
    assert sorted(program.wait() for program in programs) == [0, 1]


def test_on_a_gpu_nothing_follows_before_the_end_of_a_compilation():
    compiled = []
    Compilation(Lowered(lambda: compiled.append(threading.current_thread())), "gpu")
    assert len(compiled) == 1


@pytest.mark.parametrize("use", ["wait", "call", "device_bytes", "compile_secs"])
def test_the_error_of_the_compiler_is_raised_by_what_needs_the_program(monkeypatch, use):
    def refuse(lowered):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    topology = init_devices()
    program = compile_spmd(
        lambda batch: batch, topology, abstract_batch({"x": jax.ShapeDtypeStruct((1,), jnp.float32)}, topology)
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="too large"):
        used = getattr(program, use)
        used()


def test_settings_of_the_process_do_not_reach_the_compiler():
    found = []
    jax.config.update("jax_enable_x64", True)
    try:
        Compilation(Lowered(lambda: found.append(jnp.zeros((), float).dtype)), "cpu").wait()
    finally:
        jax.config.update("jax_enable_x64", False)
    assert found == [jnp.float32]
