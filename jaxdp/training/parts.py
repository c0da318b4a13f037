"""From configuration groups to the typed parts of the floors below."""

import dataclasses
import functools
import glob
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxdp.data.augmentation import augmented, make_augmentation
from jaxdp.data.pipeline import MakeBatch
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.errors import UserError
from jaxdp.experiment.vocabularies import NONE, Vocabularies
from jaxdp.model import Transformer, TransformerConfig, init_params, model_config
from jaxdp.optim import (
    OptimizerConfig,
    holding_frozen,
    make_optimizer,
    make_schedule,
    penalized,
    scaling_rules,
    track_loss,
)
from jaxdp.parallel.sync import GradientSync
from jaxdp.run_config import DATA_PLACES, DURATIONS
from jaxdp.state import TrainState, initial_state
from jaxdp.step import Loss, Outputs, UpdateConfig
from jaxdp.tasks import MASK, Task, TaskInputs, registered_tasks
from jaxdp.training.size_limits import check_model_size
from jaxdp.typing import PyTree

DEFAULT_PRESETS = {"decoder": "nano", "encoder": "encoder_nano", "encoder_decoder": "seq2seq_nano"}
"""Where `model.preset` is unset, by the first architecture that the task can be learned by."""


def make_task(config: ConfigDict, vocabularies: Vocabularies = NONE) -> Task:
    """The task that `config.task` names.

    Args:
        config: the task's own group, `data` and `optim` are used.
        vocabularies: without tokenizers while data is prepared, without labels before they are read.
    """
    factories = registered_tasks()
    if config.task not in factories:
        raise UserError(f"task={config.task!r} is unknown; choose one of: {', '.join(factories)}.")
    inputs = TaskInputs(
        length=config.data.length,
        target_length=config.data.target_length,
        tokenizer=vocabularies.tokenizer,
        target_tokenizer=vocabularies.target_tokenizer,
        packing=config.data.packing,
        label_smoothing=config.optim.label_smoothing,
        z_loss=config.optim.z_loss,
        labels=vocabularies.labels,
        options=config[config.task].to_dict() if config.task in config else {},
    )
    factory = factories[config.task]
    if inputs.packing is None:
        inputs = dataclasses.replace(inputs, packing=factory(inputs).packings[0])
    return factory(inputs)


def packing(config: ConfigDict) -> str:
    """What a row is: `data.packing`, or what the task prefers."""
    return config.data.packing or make_task(config).packings[0]


def model_vocab_size(config: ConfigDict, tokenizer: Tokenizer) -> int:
    """Rows of the model's token embedding: `model.vocab_size`, or what the tokenizer has.

    Raises:
        UserError: the model would have too few.
    """
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={vocab_size} is smaller than the tokenizer's vocabulary of "
            f"{tokenizer.vocab_size}; leave it unset or raise it."
        )
    return vocab_size


def count_steps(config: ConfigDict, num_rows: int | None) -> int:
    """total_steps, or what total_epochs or total_tokens come to, rounded up; a stream (None) has no epochs."""
    per_step = {
        "total_steps": 1,
        "total_epochs": num_rows and config.global_batch_size / num_rows,
        "total_tokens": config.global_batch_size * config.data.length,
    }
    [key] = [key for key in DURATIONS if config[key] is not None]
    return max(1, math.ceil(config[key] / per_step[key]))


def architecture(
    config: ConfigDict, vocab_size: int, *, vocabularies: Vocabularies = NONE, dtype: str | None = None
) -> TransformerConfig:
    """The model that `config.model` describes, preset, own keys and what the task asks together.

    Args:
        config: `task`, its group, `model` and `data` are used.
        vocab_size: rows of the token embedding.
        vocabularies: of the data.
        dtype: what `auto` means here; None: not decided yet, float32 stands in.

    Raises:
        UserError: a value that does not fit, or a model that cannot learn the task.
    """
    task = make_task(config, vocabularies)
    overrides = config.model.to_dict()
    preset = overrides.pop("preset") or DEFAULT_PRESETS[task.architectures[0]]
    overrides.pop("vocab_size")
    if overrides["dtype"] == "auto":
        overrides["dtype"] = dtype or "float32"
    model = model_config(
        preset, overrides, vocab_size=vocab_size, max_length=config.data.length, **task.model_options
    )
    if model.architecture not in task.architectures:
        raise UserError(
            f"model.preset={preset} is of architecture {model.architecture}, which does not serve "
            f"task={config.task!r}; choose a preset that is {' or '.join(task.architectures)}, such as "
            f"{DEFAULT_PRESETS[task.architectures[0]]}."
        )
    return model


def resolve(config: ConfigDict, vocab_size: int, vocabularies: Vocabularies = NONE) -> ConfigDict:
    """The configuration as `config.json` keeps it: what the task and the preset say written out, paths absolute."""
    resolved = config.copy_and_resolve_references()
    model = architecture(config, vocab_size, vocabularies=vocabularies)
    with resolved.unlocked(), resolved.ignore_type():
        resolved.data.packing = packing(config)
        if resolved.model.preset is None:
            resolved.model.preset = DEFAULT_PRESETS[make_task(config).architectures[0]]
        resolved.data.update(absolute_places(resolved.data))
        resolved.data.mixture = tuple({**entry, **absolute_places(entry)} for entry in resolved.data.mixture)
        if resolved.init_from:
            resolved.init_from = os.path.abspath(os.path.expanduser(resolved.init_from))
        for key, value in resolved.model.items():
            if value is None:
                resolved.model[key] = getattr(model, key)
    return resolved


def absolute_places(data: Mapping[str, Any]) -> dict[str, str]:
    """Where files are, from any working directory; URLs and names on the Hub as they stand.

    Args:
        data: `config.data`, or an entry of its mixture.
    """
    places = {}
    for key in (*DATA_PLACES, "test_path"):
        path = os.path.expanduser(data.get(key) or "")
        on_hub = data["source"] in ("hf", "hf_stream") and not (os.path.exists(path) or glob.has_magic(path))
        if path:
            places[key] = path if "://" in path or on_hub else os.path.abspath(path)
    return places


def make_model(
    config: ConfigDict, vocab_size: int, platform: str, vocabularies: Vocabularies = NONE
) -> Transformer:
    """The model for this platform: `dtype=auto` is bfloat16 on accelerators.

    Raises:
        UserError: A value that does not fit, or a model that this host cannot hold.
    """
    dtype = "float32" if platform == "cpu" else "bfloat16"
    model = architecture(config, vocab_size, vocabularies=vocabularies, dtype=dtype)
    check_model_size(model)
    return Transformer(model)


def optimizer_config(config: ConfigDict, total_steps: int) -> OptimizerConfig:
    """Returns the keys of `config.optim` that concern the update, for a run of this length.

    Raises:
        UserError: A value is out of its range.
    """
    fields = {field.name for field in dataclasses.fields(OptimizerConfig)}
    return OptimizerConfig(**{key: value for key, value in config.optim.items() if key in fields}, total_steps=total_steps)


def make_update(config: ConfigDict, total_steps: int, platform: str) -> UpdateConfig:
    """Optimizer, schedule, clipping and averaging of parameters."""
    optim = optimizer_config(config, total_steps)
    optimizer = make_optimizer(optim)
    if config.optim.spike_factor:
        optimizer = optax.chain(optimizer, track_loss())
    return UpdateConfig(
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


def training_loss(config: ConfigDict, task: Task, model: Transformer) -> Loss:
    """What is minimised: the task's loss and the penalties; frozen parameters get no gradient."""
    optim = config.optim
    loss = penalized(task_loss(task, model, train=True), optim.l1, optim.l2)
    return holding_frozen(loss, scaling_rules(optim.freeze, optim.scales))


def collected_outputs(task: Task, model: Transformer) -> Outputs:
    """What the task wants to see of every row of a split, as a function of parameters and rows."""
    apply = functools.partial(apply_model, model)

    def outputs(params, rows):
        if not task.eval_outputs:
            return {}
        found = task.outputs(apply, params, rows)
        return {name: found[name] for name in task.eval_outputs}

    return outputs


def apply_model(model: Transformer, params: PyTree, tokens: jax.Array, **options):
    """The model as a plain function of its parameters."""
    return model.apply({"params": params}, tokens, **options)


def make_initial_state(
    config: ConfigDict, model: Transformer, update: UpdateConfig
) -> Callable[[], TrainState]:
    """A traceable function that draws state 0 from the seed."""

    def initialise() -> TrainState:
        params = init_params(model.config, jax.random.key(config.seed))
        return initial_state(params, update.optimizer, with_ema=update.ema_decay > 0)

    return initialise


def make_training_batch(config: ConfigDict, task: Task, vocabularies: Vocabularies) -> MakeBatch:
    """`task.make_batch` with `data.augmentation` before it.

    Raises:
        UserError: it does not serve the task or its rows.
    """
    if not config.data.augmentation:
        return task.make_batch
    if not task.can_augment or packing(config) != "none":
        raise UserError(
            f"data.augmentation={config.data.augmentation} needs one text a row that is read and not also "
            f"what is learned, which task={config.task} with data.packing={packing(config)} has not; leave it empty."
        )
    tokenizer = vocabularies.tokenizer
    special_ids = {*tokenizer.special_ids.values(), tokenizer.eos_id}
    blank_id = tokenizer.special_ids.get(MASK, tokenizer.eos_id)
    return augmented(task.make_batch, make_augmentation(config.data.augmentation, special_ids, blank_id))


def batch_spec(task: Task, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a device receives for `rows` rows: the task's arrays and the rows' numbers."""
    return task.batch_spec(rows) | {"row_ids": jax.ShapeDtypeStruct((rows,), jnp.int32)}
