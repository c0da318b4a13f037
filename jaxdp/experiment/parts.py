"""From configuration groups to the typed parts of the floors below."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxdp.config import DURATIONS
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.errors import UserError
from jaxdp.model import Transformer, TransformerConfig, model_config
from jaxdp.optim import OptimizerConfig, make_optimizer, make_schedule, track_loss
from jaxdp.parallel.sync import GradientSync
from jaxdp.state import TrainState, initial_state
from jaxdp.step import Loss, Update
from jaxdp.tasks import Task, TaskInputs, registered_tasks
from jaxdp.typing import PyTree


def make_task(config: ConfigDict, tokenizer: Tokenizer | None) -> Task:
    """The task that `config.task` names."""
    factories = registered_tasks()
    if config.task not in factories:
        raise UserError(f"task={config.task!r} is unknown; choose one of: {', '.join(factories)}.")
    return factories[config.task](
        TaskInputs(
            length=config.data.length,
            tokenizer=tokenizer,
            packing=config.data.packing,
            label_smoothing=config.optim.label_smoothing,
            z_loss=config.optim.z_loss,
        )
    )


def count_steps(config: ConfigDict, num_rows: int | None) -> int:
    """total_steps, or what total_epochs or total_tokens come to, rounded up; a stream (None) has no epochs."""
    per_step = {
        "total_steps": 1,
        "total_epochs": num_rows and config.global_batch_size / num_rows,
        "total_tokens": config.global_batch_size * config.data.length,
    }
    [key] = [key for key in DURATIONS if config[key] is not None]
    return max(1, math.ceil(config[key] / per_step[key]))


def architecture(config: ConfigDict, vocab_size: int, *, dtype: str | None = None) -> TransformerConfig:
    """The model that `config.model` describes, preset and own keys together.

    Args:
        config: `model` and `data.length` are used.
        vocab_size: rows of the token embedding.
        dtype: what `auto` means here; None: not decided yet, float32 stands in.
    """
    overrides = config.model.to_dict()
    preset = overrides.pop("preset")
    overrides.pop("vocab_size")
    if overrides["dtype"] == "auto":
        overrides["dtype"] = dtype or "float32"
    return model_config(preset, overrides, vocab_size=vocab_size, max_length=config.data.length)


def resolve(config: ConfigDict, vocab_size: int) -> ConfigDict:
    """The configuration as `config.json` keeps it: the preset's values written out, paths absolute."""
    resolved = config.copy_and_resolve_references()
    model = architecture(config, vocab_size)
    with resolved.unlocked(), resolved.ignore_type():
        if resolved.data.path:
            resolved.data.path = os.path.abspath(os.path.expanduser(resolved.data.path))
        if resolved.init_from:
            resolved.init_from = os.path.abspath(os.path.expanduser(resolved.init_from))
        for key, value in resolved.model.items():
            if value is None:
                resolved.model[key] = getattr(model, key)
    return resolved


def make_model(config: ConfigDict, vocab_size: int, platform: str) -> Transformer:
    """The model for this platform: `dtype=auto` is bfloat16 on accelerators."""
    dtype = "float32" if platform == "cpu" else "bfloat16"
    return Transformer(architecture(config, vocab_size, dtype=dtype))


def make_update(config: ConfigDict, total_steps: int, platform: str) -> Update:
    """Optimizer, schedule, clipping and averaging of parameters."""
    fields = {field.name for field in dataclasses.fields(OptimizerConfig)}
    optim = OptimizerConfig(
        **{key: value for key, value in config.optim.items() if key in fields}, total_steps=total_steps
    )
    optimizer = make_optimizer(optim)
    if config.optim.spike_factor:
        optimizer = optax.chain(optimizer, track_loss())
    return Update(
        optimizer,
        make_schedule(optim),
        clip_norm=config.optim.clip_norm,
        ema_decay=config.optim.ema_decay,
        spike_factor=config.optim.spike_factor,
        max_skipped_in_a_row=config.optim.max_skipped_in_a_row,
        skip_by="branch" if platform == "cpu" else "select",
    )


def make_sync(config: ConfigDict, platform: str) -> GradientSync:
    """How gradients are synchronised: one buffer on CPU, buckets elsewhere."""
    if config.parallel.sync != "pmean":
        raise UserError(f"parallel.sync={config.parallel.sync!r} is unknown; choose pmean.")
    bucket_mb = config.parallel.bucket_mb
    if bucket_mb is None and platform != "cpu":
        bucket_mb = 32.0
    return GradientSync(
        config.parallel.wire_dtype, None if bucket_mb is None else int(bucket_mb * 2**20)
    )


def task_loss(task: Task, model: Transformer, *, train: bool) -> Loss:
    """The task's loss as a function of parameters and rows; dropout only in training."""
    apply = functools.partial(apply_model, model)
    dropout = train and model.config.dropout_rate > 0

    def loss(params, rows, row_keys):
        return task.loss(apply, params, rows, row_keys if dropout else None, train)

    return loss


def apply_model(model: Transformer, params: PyTree, tokens: jax.Array, **options):
    """The model as a plain function of its parameters."""
    return model.apply({"params": params}, tokens, **options)


def make_initial_state(
    config: ConfigDict, model: Transformer, update: Update
) -> Callable[[], TrainState]:
    """A traceable function that draws state 0 from the seed."""

    def initialise() -> TrainState:
        tokens = jnp.zeros((1, 1), jnp.int32)
        params = model.init(jax.random.key(config.seed), tokens)["params"]
        return initial_state(params, update.optimizer, with_ema=update.ema_decay > 0)

    return initialise


def batch_spec(task: Task, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a device receives for `rows` rows: the task's arrays and the rows' numbers."""
    return task.batch_spec(rows) | {"row_ids": jax.ShapeDtypeStruct((rows,), jnp.int32)}
