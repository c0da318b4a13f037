"""Collectives of compiled programs: counts with the rounds of loops, bytes, and whether they are asynchronous."""

import functools

import jax
import jax.numpy as jnp

from jaxdp.parallel.devices import AXIS, init_devices
from jaxdp.parallel.placement import abstract_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.plan.collectives import Collective, collectives_of

# Shortened from programs that XLA compiled for TPU v5e (loop without a known trip count) and H100 (asynchronous pairs).
PROGRAM = """\
HloModule jit__fun, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%wrapped (p: f32[16]) -> f32[2] {
  ROOT %scatter = f32[2]{0} reduce-scatter(%p), channel_id=4, dimensions={0}, to_apply=%add
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12), metadata={op_name="while"}
  %round = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%round, %limit), direction=LT
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %gathered = bf16[8,4]{1,0} all-gather(%part), channel_id=1, dimensions={0}
  ROOT %next = (s32[], f32[8]) tuple(%round, %value)
}

ENTRY %main_spmd (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  %loop = (s32[], f32[8]) while(%start), condition=%condition, body=%body
  %pair = (f32[100]{0}, f32[3]{0}) all-reduce(%x, %y), channel_id=2, to_apply=%add
  %begin = f32[1024]{0} all-reduce-start(%x), channel_id=3, to_apply=%add
  %product = f32[8,8]{1,0} custom-call(%a, %b), custom_call_target="__cublas$gemm"
  %end = f32[1024]{0} all-reduce-done(%begin)
  %ag-start = (f32[2]{0}, f32[16]{0}) all-gather-start(%z), channel_id=5, dimensions={0}
  %small = f32[2]{0} add(%z, %z)
  %ag-done = f32[16]{0} all-gather-done(%ag-start)
  %rs-start = ((f32[16]{0}), f32[2]{0}) async-start(%ag-done), calls=%wrapped
  %rs-done = f32[2]{0} async-done(%rs-start), calls=%wrapped
  %twice = f32[4]{0} while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"2"}}
}
"""


def test_counts_bytes_and_overlap():
    assert collectives_of(PROGRAM) == [
        Collective("all-reduce", 1, 4096, True, True),
        Collective("all-gather", 14, 14 * 64, False, False),
        Collective("all-reduce", 1, 412, False, False),
        Collective("all-gather", 1, 64, True, False),
        Collective("reduce-scatter", 1, 8, True, False),
    ]


def test_a_loop_of_a_real_program():
    """Five rounds with a sum of 24 floats, and one sum after them."""
    topology = init_devices()

    def function(x):
        summed, _ = jax.lax.scan(lambda carry, _: (jnp.sin(jax.lax.psum(carry, AXIS)), None), x, None, length=5)
        return jax.lax.pmax(summed, AXIS)

    spec = abstract_batch({"x": jax.ShapeDtypeStruct((24,), jnp.float32)}, topology)["x"]
    text = compile_spmd(function, topology, spec).call.as_text()
    assert [(each.kind, each.count, each.bytes) for each in collectives_of(text)] == [("all-reduce", 6, 6 * 96)]


def test_a_program_without_collectives():
    text = jax.jit(functools.partial(jnp.dot, jnp.ones((4, 4)))).lower(jnp.ones((4, 4))).compile().as_text()
    assert collectives_of(text) == [] == collectives_of("")
