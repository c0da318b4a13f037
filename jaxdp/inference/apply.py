"""Logits of a model for batches of tokens, padded to the devices and compiled once for each shape."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.errors import UserError
from jaxdp.inference.programs_by_shape import ProgramsByShape
from jaxdp.inference.restored_model import RestoredModel
from jaxdp.model import Transformer
from jaxdp.nearest import closest
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import Program, compile_spmd
from jaxdp.tasks.model_functions import apply_model
from jaxdp.typing import PyTree

MODEL_INPUTS = tuple(
    name
    for name in inspect.signature(Transformer.__call__).parameters
    if name not in ("self", "tokens", "row_keys", "cache")
)
"""Inputs of the model besides its tokens; dropout and the KV cache belong to training and decoding."""


def logits_of(restored: RestoredModel, tokens: Any, inputs: Mapping[str, Any]) -> jax.Array:
    """Applies a placed model; see `LoadedModel.apply`."""
    batch = _checked_batch(restored, tokens, inputs)
    num_rows, num_devices = len(batch["tokens"]), restored.topology.num_devices
    share = -(-num_rows // num_devices)
    batch = {
        name: array[np.arange(share * num_devices) % num_rows] for name, array in batch.items()
    }  # copies fill up the devices

    programs = restored.kept(
        ("apply",),
        lambda: ProgramsByShape(
            "apply",
            functools.partial(_compiled, restored.device_model, restored.topology, restored.abstract_params),
            lambda *shapes: ", ".join(f"{name} {list(shape)}" for name, shape, _ in shapes),
            "pad the batches to a few numbers of rows and lengths",
        ),
    )
    program = programs(*((name, array.shape, array.dtype.str) for name, array in batch.items()))
    logits = program(restored.device_params, place_batch(batch, restored.topology))
    return logits.reshape(-1, *logits.shape[2:])[:num_rows]


def _compiled(
    model: Transformer, topology: Topology, abstract_params: PyTree, *shapes: tuple[str, tuple[int, ...], str]
) -> Program:
    """Compiles the model for inputs of these names, shapes over all devices, and types."""
    spec = {
        name: jax.ShapeDtypeStruct((shape[0] // topology.num_devices, *shape[1:]), dtype)
        for name, shape, dtype in shapes
    }
    apply = functools.partial(apply_model, model)
    return compile_spmd(
        lambda params, batch: apply(params, **batch),
        topology,
        abstract_params,
        abstract_batch(spec, topology),
        out_axes=0,
    )


def _checked_batch(restored: RestoredModel, tokens: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the inputs of the model as arrays of `[rows, ...]`.

    Raises:
        UserError: The model has no such input, or an array is of another type or shape.
    """
    for name in inputs:
        if name not in MODEL_INPUTS:
            match = closest(name, MODEL_INPUTS)
            hint = f"did you mean {match!r}?" if match else f"the inputs are {', '.join(MODEL_INPUTS)}."
            raise UserError(f"the model has no input {name!r}; {hint}")
    config = restored.model.config
    vocab_sizes = {"tokens": config.vocab_size, "target_tokens": config.target_vocab_size}
    batch = {"tokens": _checked_array("tokens", tokens)}
    num_rows = len(batch["tokens"])
    for name, value in inputs.items():
        if value is None:
            continue
        array = _checked_array(name, value)
        if array.shape[0] not in ((1, num_rows) if name.endswith("positions") else (num_rows,)):
            raise UserError(f"{name} must have {num_rows} rows, as tokens has, found {array.shape[0]}.")
        batch[name] = np.broadcast_to(array, (num_rows, *array.shape[1:]))
    for name in batch.keys() & vocab_sizes.keys():
        if batch[name].min() < 0 or batch[name].max() >= vocab_sizes[name]:
            raise UserError(
                f"{name} must be from 0 to {vocab_sizes[name] - 1}, the vocabulary of the model, found {batch[name].min()} to "
                f"{batch[name].max()}."
            )
    return batch


def _checked_array(name: str, value: Any) -> np.ndarray:
    """Returns an input as an array of int32, or bool for masks.

    Raises:
        UserError: It is no array of integers, or a mask that is none of booleans, or has no rows.
    """
    is_mask = name.endswith("mask")
    kind, sizes = ("booleans", (2, 3)) if is_mask else ("whole numbers", (2,))
    try:
        array = np.asarray(value)
    except (ValueError, jax.errors.JAXTypeError) as error:
        raise UserError(f"{name} must be an array [rows, length] of {kind}: {str(error).splitlines()[0]}") from error
    if array.ndim not in sizes or array.dtype.kind not in ("b" if is_mask else "iu") or not array.size:
        raise UserError(f"{name} must be an array [rows, length] of {kind}, found {array.dtype}{list(array.shape)}.")
    return array if is_mask else array.astype(np.int32)
