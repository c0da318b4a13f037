"""Memory of one device: its limit, and the bytes of a compiled train step by kind."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxdp.errors import UserError
from jaxdp.hardware.host_memory import host_memory_bytes
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.layout import LeafLayout
from jaxdp.parallel.spmd import Program
from jaxdp.training.step_setup import StepSetup
from jaxdp.typing import PyTree


def local_limit(topology: Topology) -> tuple[int, str]:
    """Returns the bytes that a program may use on a device of this machine, and a sentence of where the number comes from."""
    if topology.platform == "cpu":
        count = topology.num_local_devices
        return host_memory_bytes() // count, f"the memory of this host, divided by its {count} CPU devices"
    limit = (topology.devices[0].memory_stats() or {}).get("bytes_limit")
    if not limit:
        raise UserError(f"{topology.kind} does not report its memory, so that nothing can be said about what fits.")
    return int(limit), "the limit that the device reports"


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of one device in a train step, by kind; they add up to `total`.

    Attributes:
        parameters, optimizer, ema, sync_state: Parts of the train state, as they are stored.
        gradients: Sums of the gradients, float32, in the layout in which a device adds them up.
        logits: Scores of the vocabulary of one microbatch, as far as the program keeps them whole.
        activations: All other temporaries, gathered parameters and buffers of collectives included.
        buffers: The batch, the metrics and padding between arrays.
        total: Peak of the program.
    """

    parameters: int
    optimizer: int
    ema: int
    sync_state: int
    gradients: int
    logits: int
    activations: int
    buffers: int
    total: int


def step_memory(setup: StepSetup, program: Program) -> StepMemory:
    """Divides the memory of a compiled train step by kind."""
    memory = program.call.memory_analysis()
    temporaries = memory.temp_size_in_bytes if memory is not None else 0
    text = program.call.as_text() or ""
    return divided(setup, program.device_bytes, temporaries, min(_logits_bytes(setup, text), temporaries))


def divided(setup: StepSetup, total: int, temporaries: int, logits: int) -> StepMemory:
    """Divides the memory of a train step by kind, from its peak.

    Args:
        setup: The setup that the step is compiled from.
        total: Peak of the program.
        temporaries: Bytes of the peak that are neither arguments nor results.
        logits: Bytes of logits among the temporaries.
    """
    state, num_devices = setup.placement.abstract, setup.topology.num_devices
    stored = {
        name: device_bytes(jax.tree.leaves(part), num_devices)
        for name, part in (
            ("parameters", state.params),
            ("optimizer", state.opt_state),
            ("ema", state.ema),
            ("sync_state", state.sync),
        )
    }
    leaves, layouts = jax.tree.leaves(setup.placement.params), jax.tree.leaves(setup.placement.layout.params)
    gradients = sum(map(_gradient_bytes, leaves, layouts, [num_devices] * len(leaves)))
    gradients = min(gradients, temporaries - logits)
    return StepMemory(
        **stored,
        gradients=gradients,
        logits=logits,
        activations=temporaries - logits - gradients,
        buffers=total - temporaries - sum(stored.values()),
        total=total,
    )


def device_bytes(leaves: Sequence[Any], num_devices: int) -> int:
    """Counts the bytes of one device; leaves with a device axis are divided."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize // (num_devices if len(leaf.sharding.spec) else 1)
        for leaf in leaves
    )


def _gradient_bytes(leaf: PyTree, layout: LeafLayout, num_devices: int) -> int:
    """Counts the bytes of a parameter's gradient sum on one device: float32, a shard if the parameter is one."""
    return 4 * math.prod(leaf.shape) // (num_devices if layout.kind == "sharded" else 1)


_SIZES = {"f32": 4, "bf16": 2}
_MAX_PADDING = 128
"""Columns by which a program may pad the vocabulary."""


def _logits_bytes(setup: StepSetup, text: str) -> int:
    """Returns the bytes of the logits that a program keeps whole: the largest array of each dtype that it has.

    They are those of a microbatch, or of a chunk of its tokens.

    Args:
        setup: The setup that the step is compiled from.
        text: The compiled program.
    """
    model = setup.model.config
    if model.head == "classification":
        return 0
    tokens = setup.shape.microbatch_size * (setup.task.num_predicted or setup.config.data.length)
    found = {dtype: 0 for dtype in _SIZES}
    # A value inside a fused computation is not in memory.
    for computation in re.split(r"\n(?=%|ENTRY)", text):
        if re.match(r"%\S*fused", computation):
            continue
        for dtype, dims in re.findall(r" = (f32|bf16)\[([\d,]+)\]", computation):
            *leading, size = map(int, dims.split(","))
            rows = math.prod(leading)
            is_vocabulary = 0 <= size - model.output_vocab_size < _MAX_PADDING
            # The output layer's kernel `[embed_dim, vocab_size]` is no logits.
            if is_vocabulary and 1 < rows <= tokens and tokens % rows == 0 and rows != model.embed_dim:
                found[dtype] = max(found[dtype], rows * size * _SIZES[dtype])
    return sum(found.values())
