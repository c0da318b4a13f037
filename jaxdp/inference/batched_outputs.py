"""Outputs of a task for examples of any number, in batches of one shape over all devices."""

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxdp.inference.restored_model import RestoredModel
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import Program, compile_spmd, gather_rows
from jaxdp.tasks import Task, pad_examples
from jaxdp.tasks.model_functions import apply_model

MAX_ROWS = 32
"""Limit of records that one device answers at a time."""

Examples = Sequence[Mapping[str, np.ndarray]]

Outputs = Callable[[Examples], Iterator[dict[str, np.ndarray]]]
"""Examples -> results of `Task.outputs` for some after the others, `[examples, ...]`."""


def batched_outputs(restored: RestoredModel, task: Task, first: Examples, key: Hashable) -> tuple[Outputs, int]:
    """Compiles the outputs of a task with a model.

    Args:
        restored: The model; it is placed if it was not.
        task: Task whose `outputs` are computed.
        first: Examples that decide how many rows a device computes at once.
        key: What the program depends on besides the number of rows; with an equal one it is kept.

    Returns:
        Function that computes the outputs of examples, and the number of rows of a batch.
    """
    restored.place(len(first))
    topology = restored.topology
    share = min(MAX_ROWS, -(-len(first) // topology.num_devices))
    rows = share * topology.num_devices
    tokenizer = restored.run.vocabularies.input_tokenizer
    end_ids = dict.fromkeys(task.eos_fields, tokenizer.eos_id if tokenizer else 0)

    def batch_of(some: Examples) -> dict[str, np.ndarray]:
        return task.make_predict_batch(pad_examples(task, some, end_ids, rows)[0])

    def compiled() -> Program:
        spec = {
            name: jax.ShapeDtypeStruct((share, *array.shape[1:]), array.dtype)
            for name, array in batch_of(first[:1]).items()
        }
        apply = functools.partial(apply_model, restored.device_model)
        return compile_spmd(
            lambda params, batch: gather_rows(task.outputs(apply, params, batch)),
            topology,
            restored.abstract_params,
            abstract_batch(spec, topology),
        )

    program = restored.kept(("outputs", key, share), compiled)

    def outputs(examples: Examples) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(examples), rows):
            some = examples[start : start + rows]
            found = jax.device_get(program(restored.device_params, place_batch(batch_of(some), topology)))
            yield {name: array[: len(some)] for name, array in found.items()}

    return outputs, rows
