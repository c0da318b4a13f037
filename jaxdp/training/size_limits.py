"""Memory limits of the host: batches that it cannot hold are refused before anything is compiled."""

import math

import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.hardware.host_memory import host_memory_bytes
from jaxdp.model import TransformerConfig
from jaxdp.model.output_layer import num_chunks
from jaxdp.parallel.devices import BatchShape, Topology
from jaxdp.report.terminal import memory_size
from jaxdp.tasks import Task
from jaxdp.tasks.make import checked_spec


def check_batch_size(
    task: Task, model: TransformerConfig, shape: BatchShape, topology: Topology, *, num_batches: int
) -> None:
    """Refuses batches whose arrays, or whose activations on CPU devices, are larger than the memory of this host.

    Args:
        task: Task of the run; gives the arrays of a batch.
        model: Model of the run.
        shape: Division of the global batch.
        topology: Devices of the run.
        num_batches: Batches that are in the memory of the host at once if it holds those on the devices: the one of
            the step and those prepared ahead. Other accelerators than CPU devices need one on the host.

    Raises:
        UserError: At least that much is needed, and the host has less.
    """
    on_host = topology.platform == "cpu"
    rows = shape.global_batch_size // topology.num_processes
    batches = (num_batches if on_host else 1) * batch_bytes(task, rows)
    activations = (
        topology.num_local_devices * min_activation_bytes(task, model, shape.microbatch_size) if on_host else 0
    )
    present = host_memory_bytes()
    if batches + activations <= present:
        return
    counted = (
        f"{num_batches} batches, data.prefetch_batches of them made ahead"
        if on_host and num_batches > 1
        else "one batch"
    )
    found = [f"{memory_size(batches)} for the arrays of {counted}"]
    if activations:
        found.append(f"{memory_size(activations)} for activations of microbatches of {shape.microbatch_size} sequences")
    smaller = "microbatch_size" if batches <= min(activations, present) else "global_batch_size"
    raise UserError(
        f"A step of global_batch_size={shape.global_batch_size} takes at least {memory_size(batches + activations)} of the memory of "
        f"this host ({' and '.join(found)}), which has {memory_size(present)}: make {smaller} or data.length smaller, or use a larger machine."
    )


def batch_bytes(task: Task, rows: int) -> int:
    """Returns the size of the arrays of a batch of this number of sequences, `row_ids` included."""
    return 4 * rows + sum(math.prod(array.shape) * array.dtype.itemsize for array in checked_spec(task, rows).values())


def min_activation_bytes(task: Task, model: TransformerConfig, rows: int) -> int:
    """Returns a lower bound of the activations of one microbatch on one device.

    The larger of two results of matrix products, which are whole in memory whatever is fused: keys and values of one
    layer for every token that is read, and the logits of the targets, or of a chunk of them.

    Args:
        task: Task of the run.
        model: Model of the run.
        rows: Sequences of a microbatch.
    """
    spec, num_values = checked_spec(task, rows), [0]
    if "tokens" in spec:
        num_values.append(math.prod(spec["tokens"].shape) * 2 * model.num_kv_heads * model.head_dim)
    if "targets" in spec:
        num_targets, vocab_size = math.prod(spec["targets"].shape), model.output_vocab_size
        num_values.append(num_targets // num_chunks(num_targets, vocab_size, model.loss_chunk) * vocab_size)
    return max(num_values) * jnp.dtype(model.dtype).itemsize
