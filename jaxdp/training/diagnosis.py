"""Diagnosis of a diverged run: the first layer, gradient or row of a batch that is not finite.

Runs once, when a run is aborted, and never while it trains.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.data.loader import IndexedLoader
from jaxdp.model import Transformer, unstack_layers
from jaxdp.model.output_layer import OutputLayer
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.placement import abstract_batch
from jaxdp.parallel.sharding import gather_all
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.step import row_keys
from jaxdp.tasks.model_functions import apply_model
from jaxdp.training.setup import TrainingSetup
from jaxdp.trees import SCANNED_LAYERS, named_leaves
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Result of the diagnosis of one batch.

    Attributes:
        rows: Numbers, in the training data, of the sequences whose outputs are not finite; all sequences of the
            batch if none or all are.
        are_culprits: Whether `rows` are some sequences among finite ones.
        where: The first value that is not finite, in words.
    """

    rows: Sequence[int]
    are_culprits: bool
    where: str

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:8]))
        shown += f" and {len(self.rows) - 8} more" if len(self.rows) > 8 else ""
        which = (
            f"not finite in rows {shown} of the training data alone"
            if self.are_culprits
            else f"rows {shown} of the training data"
        )
        return f"{which}; {self.where}"


def diagnose(setup: TrainingSetup, params: PyTree, step: int) -> Diagnosis:
    """Computes batch(step) again and checks every layer and every gradient.

    A collective call: all processes make it. Layers are unrolled and nothing is recomputed, so that each layer is
    checked by itself; dropout has the masks of the step.

    Args:
        setup: Training setup of the run.
        params: the parameters with which the batch was bad.
        step: batches consumed before it.
    """
    names: dict[str, list[str]] = {}
    loader = setup.loader
    assert isinstance(loader, IndexedLoader), "no batch of a stream can be read again"
    batch = setup.place(next(loader.batches(step)))[0]
    spec = {name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for name, leaf in batch.items()}
    program = compile_spmd(
        _probe(setup, step, names),
        setup.topology,
        setup.placement.abstract.params,
        abstract_batch(spec, setup.topology),
    )
    found = jax.device_get(program(params, batch))
    rows = loader.rows(step, found["row_ids"].reshape(-1))
    is_bad = found["bad_rows"].reshape(-1)
    are_culprits = bool(is_bad.any() and not is_bad.all())
    return Diagnosis(
        sorted((rows[is_bad] if are_culprits else rows).tolist()), are_culprits, _first_place(names, found)
    )


def _probe(setup: TrainingSetup, step: int, names: dict[str, list[str]]):
    """Returns the function of one device: for each value whether it is not finite; its name is added to `names`."""
    config = setup.model.config
    model = Transformer(dataclasses.replace(config, scan_layers=False, remat="none"))
    shape, task = setup.shape, setup.task

    def loss_and_layers(params, rows):
        layers: list[tuple[str, jax.Array]] = []

        def apply(params, *inputs, **options):
            with nn.intercept_methods(_recorder(layers)):
                outputs = apply_model(model, params, *inputs, **options)
            bad_rows = _bad_rows(outputs)
            if isinstance(outputs, OutputLayer):
                layers.append(("logits", bad_rows.any()))
            layers.append(("", bad_rows))
            return outputs

        keys = row_keys(setup.config.seed, step, rows["row_ids"]) if config.has_dropout else None
        sums = task.loss(apply, params, rows, keys, True)
        *layers, (_, bad_rows) = layers
        names["layers"] = [name for name, _ in layers]
        has_weight = sums.weight > 0
        return sums.loss, (jnp.stack([bad for _, bad in layers]), bad_rows, has_weight)

    def probe_microbatch(params, rows):
        (loss, (layers, bad_rows, has_weight)), gradients = jax.value_and_grad(loss_and_layers, has_aux=True)(
            params, rows
        )
        names["params"] = [name for name, _ in named_leaves(params)]
        return {
            "params": jnp.stack(list(map(_is_bad, jax.tree.leaves(params)))),
            "layers": layers,
            "loss": _is_bad(loss),
            "has_weight": has_weight,
            "gradients": jnp.stack(list(map(_is_bad, jax.tree.leaves(gradients)))),
        }, bad_rows

    def probe(params, batch):
        params = gather_all(params, setup.placement.layout.params)
        params = unstack_layers(params) if SCANNED_LAYERS in params else params
        microbatches = jax.tree.map(lambda array: array.reshape(shape.num_microbatches, -1, *array.shape[1:]), batch)
        found, bad_rows = jax.lax.map(lambda rows: probe_microbatch(params, rows), microbatches)
        anywhere = {name: jax.lax.pmax(each.astype(jnp.int32).max(axis=0), AXIS) for name, each in found.items()}
        of_rows = {"row_ids": batch["row_ids"], "bad_rows": bad_rows.reshape(-1)}
        return anywhere | jax.lax.all_gather(of_rows, AXIS)

    return probe


def _recorder(layers: list[tuple[str, jax.Array]]):
    """Records the outputs of every method of every module, in the order of execution."""

    def record(method, args, kwargs, context):
        outputs = method(*args, **kwargs)
        own = () if context.method_name == "__call__" else (context.method_name.strip("_"),)
        arrays = [leaf for leaf in jax.tree.leaves(outputs) if _is_float(leaf)]
        if arrays:
            name = "/".join((*context.module.path, *own)) or "the model"
            layers.append((name, jnp.stack(list(map(_is_bad, arrays))).any()))
        return outputs

    return record


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_bad(leaf: jax.Array) -> jax.Array:
    """Returns whether any number is not finite: `[] bool`."""
    return ~jnp.isfinite(leaf).all()


def _bad_rows(outputs: jax.Array | OutputLayer) -> jax.Array:
    """Returns which sequences have outputs or logits `[rows, ...]` that are not finite: `[rows] bool`."""
    if isinstance(outputs, OutputLayer):
        # One sequence after the other: the logits of all may not fit into memory.
        return jax.lax.map(
            lambda hidden: _is_bad(dataclasses.replace(outputs, hidden=hidden[None]).logits()), outputs.hidden
        )
    return ~jnp.isfinite(outputs).reshape(outputs.shape[0], -1).all(axis=1)


def _first_place(names: Mapping[str, list[str]], found: Mapping[str, np.ndarray]) -> str:
    """Describes the first non-finite value, forward and then backward, or that nothing counts."""
    params = [name for name, bad in zip(names["params"], found["params"], strict=True) if bad]
    if params:
        return f"the parameters {', '.join(params[:4])} themselves are not finite"
    layers = [name for name, bad in zip(names["layers"], found["layers"], strict=True) if bad]
    if layers:
        return f"the first layer whose output is not finite is {layers[0]}"
    if not found["has_weight"]:
        return "no prediction of the batch counts: the weight of the loss is 0, and so is what its mean is divided by"
    if found["loss"]:
        return "the outputs of all layers are finite, the loss of them is not"
    gradients = [name for name, bad in zip(names["params"], found["gradients"], strict=True) if bad]
    if gradients:
        # Backward, the layer that is last going forward comes first.
        order = {name: place for place, name in enumerate(names["layers"])}
        first = max(gradients, key=lambda name: order.get(name.rpartition("/")[0], -1))
        return (
            f"the outputs of all layers are finite; going backward, the first gradient that is not is that of {first}"
        )
    return "computed again, everything on every device is finite"
