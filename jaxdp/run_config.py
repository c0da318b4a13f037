"""Typed configuration of a run: frozen dataclasses, one for each group of keys, checked on construction.

`jaxdp.config.parse_config` builds a `RunConfig` from a configuration file, the command line or Python;
all modules below the command line use it. Defaults and meanings of the keys are in `jaxdp/defaults.py`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdp.config_values import CHOICES_OF_WORDS, RANGES, check_range, check_type
from jaxdp.errors import UserError

DURATIONS = ("total_steps", "total_epochs", "total_tokens")

TEST_DATA = ("test_path", "test_split")
"""Keys of `data` that only `jaxdp eval --split=test` reads."""

DATA_PLACES = ("path", "eval_path", "target_path", "eval_target_path")
"""Keys with file locations, in `data` and in the entries of its mixture."""

COMPUTE_KEYS = ("dtype", "remat", "scan_layers", "attention", "loss_chunk")
"""Keys of `model` that say how a model is computed; all others say which model it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Group `data` of a configuration; `jaxdp/defaults.py` describes its keys."""

    source: str
    path: str | None
    name: str | None
    split: str | None
    eval_split: str | None
    eval_path: str | None
    target_path: str | None
    eval_target_path: str | None
    test_path: str | None
    test_split: str | None
    eval_fraction: float
    eval_selection: str
    text_column: str
    label_column: str
    source_column: str
    target_column: str
    errors: str
    encoding: str | None
    delimiter: str | None
    mixture: tuple[Any, ...]
    temperature: float
    cleaning: tuple[Any, ...]
    tokenizer: str
    target_tokenizer: str | None
    length: int
    target_length: int | None
    packing: str | None
    long_documents: str
    augmentation: tuple[Any, ...]
    balanced: bool
    shuffle: bool
    shuffle_buffer: int
    partition: str
    cache_dir: str | None
    num_workers: int | None
    prefetch_batches: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Group `model` of a configuration; `jaxdp/defaults.py` describes its keys."""

    preset: str | None
    vocab_size: int | None
    architecture: str | None
    num_layers: int | None
    num_decoder_layers: int | None
    num_heads: int | None
    num_kv_heads: int | None
    embed_dim: int | None
    head_dim: int | None
    mlp_dim: int | None
    dropout_rate: float | None
    attention_dropout_rate: float | None
    attention_window: int | None
    attention_window_pattern: tuple[Any, ...] | None
    attention_logit_softcap: float | None
    attention_scale: float | None
    qkv_bias: bool | None
    qk_norm: bool | None
    zero_init_residual: bool | None
    residual_scalars: bool | None
    output_bias: bool | None
    output_scale: float | None
    value_embeddings: bool | None
    logit_softcap: float | None
    norm: str | None
    norm_position: str | None
    first_attention_norm: bool | None
    norm_epsilon: float | None
    norm_offset: float | None
    embedding_norm: bool | None
    embedding_scale: float | None
    num_token_types: int | None
    positions: str | None
    position_offset: int | None
    relative_buckets: int | None
    relative_max_distance: int | None
    rotary_base: float | None
    rotary_local_base: float | None
    rotary_fraction: float | None
    rope_scaling: str | None
    rope_factor: float | None
    rope_low_freq_factor: float | None
    rope_high_freq_factor: float | None
    rope_original_length: int | None
    rope_attention_factor: float | None
    activation: str | None
    use_bias: bool | None
    tie_embeddings: bool | None
    share_embeddings: bool | None
    pooler: str | None
    classifier_bias: bool | None
    dtype: str
    remat: str
    scan_layers: bool
    attention: str
    loss_chunk: int | None
    lora_rank: int | None
    lora_alpha: float | None
    lora_layers: tuple[Any, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Group `optim` of a configuration; `jaxdp/defaults.py` describes its keys."""

    name: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    end_learning_rate: float
    weight_decay: float
    weight_decay_end: float | None
    cautious: bool
    b1: float
    b2: float
    eps: float
    momentum: float
    clip_norm: float
    ema_decay: float
    label_smoothing: float
    l1: float
    l2: float
    freeze: tuple[Any, ...]
    scales: tuple[Any, ...]
    layer_decay: float
    z_loss: float
    spike_factor: float
    max_skipped_in_a_row: int
    max_rollbacks: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Group `parallel` of a configuration; `jaxdp/defaults.py` describes its keys."""

    cpu_devices: int | None
    sync: str
    delay_steps: int | None
    num_workers: int | None
    local_steps: int | None
    local_fragments: int | None
    outer_learning_rate: float | None
    outer_momentum: float | None
    wire_dtype: str
    bucket_mb: float | None
    check_every_steps: int
    watchdog_secs: float | None
    init_timeout_secs: float
    deterministic: bool

    @property
    def delay(self) -> int:
        """Number of steps between the one that reads a batch and the one that applies its gradient."""
        return (self.delay_steps or 1) if self.sync == "delayed" else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Group `eval` of a configuration; `jaxdp/defaults.py` describes its keys."""

    every_steps: int
    num_batches: int
    metric: str
    patience: int
    num_scored: int
    num_beams: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Group `checkpoint` of a configuration; `jaxdp/defaults.py` describes its keys."""

    every_steps: int
    every_minutes: float
    keep_latest: int
    keep_best: int
    keep_every_steps: int
    async_save: bool
    grace_secs: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Group `log` of a configuration; `jaxdp/defaults.py` describes its keys."""

    every_steps: int
    batch_hash: bool
    norms_every_steps: int
    noise_scale: bool
    samples: int
    resources_every_secs: float
    tensorboard: bool
    wandb: bool
    wandb_project: str | None
    wandb_entity: str | None
    wandb_group: str | None
    wandb_tags: tuple[str, ...]
    trackio: bool
    mlflow: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Complete configuration of a run.

    Attributes:
        task_groups: Group of keys of each task, by the name of the task.

    Raises:
        UserError: A value has the wrong type or is out of its range, not exactly one duration is set, or
            `eval.patience` counts evaluations that do not happen.
    """

    task: str
    seed: int
    total_steps: int | None
    total_epochs: float | None
    total_tokens: float | None
    global_batch_size: int
    microbatch_size: int | str | None
    init_from: str | None
    init_rules: tuple
    init_average: str | None
    data: DataConfig
    model: ModelConfig
    task_groups: Mapping[str, Mapping[str, Any]]
    optim: OptimConfig
    parallel: ParallelConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig

    def __post_init__(self):
        values = dict(_flat(self))
        for key, kind in KEY_TYPES.items():
            if values[key] not in CHOICES_OF_WORDS.get(key, ()):
                check_type(key, values[key], *kind)
        _check_duration(self)
        for key in RANGES:
            check_range(key, values[key])
        if (self.init_rules or self.init_average) and not self.init_from:
            raise UserError(
                "init_rules and init_average change what init_from takes, which is unset; set it, or leave them out."
            )
        if not all(isinstance(tag, str) for tag in self.log.wandb_tags):
            raise UserError(f"log.wandb_tags={self.log.wandb_tags} must be a tuple of strings.")
        if self.eval.patience and not self.eval.every_steps:
            raise UserError(
                f"eval.patience={self.eval.patience} counts evaluations, but with eval.every_steps=0 there is none before "
                "the last step: set eval.every_steps above 0, or eval.patience=0."
            )

    @property
    def fixed_microbatch_size(self) -> int | None:
        """`microbatch_size` if it is a number; None: the device's whole share, or what `auto` finds."""
        return self.microbatch_size if isinstance(self.microbatch_size, int) else None

    @property
    def task_options(self) -> Mapping[str, Any]:
        """Keys of the task's own group; empty if it has none."""
        return self.task_groups.get(self.task, {})

    def replaced(self, **changes: Any) -> "RunConfig":
        """Returns a copy with other values: `config.replaced(seed=1, data={"path": "books"})`.

        Args:
            changes: New values by key; for a group a mapping of its keys.
        """
        return dataclasses.replace(
            self,
            **{
                key: dataclasses.replace(getattr(self, key), **value)
                if key in GROUPS and isinstance(value, Mapping)
                else value
                for key, value in changes.items()
            },
        )

    def num_steps(self, num_rows: int | None) -> int:
        """Returns the optimizer updates of the run: `total_steps`, or the other duration in steps, rounded up.

        Args:
            num_rows: Training sequences of one epoch; None for a stream, which has no epochs.
        """
        per_step = {
            "total_steps": 1,
            "total_epochs": num_rows and self.global_batch_size / num_rows,
            "total_tokens": self.global_batch_size * self.data.length,
        }
        [key] = [key for key in DURATIONS if getattr(self, key) is not None]
        return max(1, math.ceil(getattr(self, key) / per_step[key]))


GROUPS: dict[str, type] = {
    "data": DataConfig, "model": ModelConfig, "optim": OptimConfig, "parallel": ParallelConfig, "eval": EvalConfig,
    "checkpoint": CheckpointConfig, "log": LogConfig,
}  # fmt: skip
"""Name of a group of keys -> its dataclass."""


def _key_types() -> dict[str, tuple[type, bool]]:
    """Returns key -> (type of its value, whether it may be unset)."""
    found = {}
    for prefix, group in (("", RunConfig), *((f"{name}.", group) for name, group in GROUPS.items())):
        for name, hint in typing.get_type_hints(group).items():
            if name in GROUPS or name == "task_groups":
                continue
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kind = typing.get_origin(kinds[0]) or kinds[0]
            found[prefix + name] = (kind, len(kinds) > 1)
    return found


KEY_TYPES = _key_types()


def _flat(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of all keys except those of tasks."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in GROUPS:
            yield from (
                (f"{field.name}.{inner.name}", getattr(value, inner.name)) for inner in dataclasses.fields(value)
            )
        elif field.name != "task_groups":
            yield field.name, value


def _check_duration(config: RunConfig) -> None:
    """Raises UserError unless exactly one duration is set, above 0."""
    chosen = [key for key in DURATIONS if getattr(config, key) is not None]
    if len(chosen) != 1:
        found = f"the configuration gives {' and '.join(chosen)}; set the others to None" if chosen else "none is given"
        raise UserError(f"exactly one of {', '.join(DURATIONS)} must be set; {found}.")
    value = getattr(config, chosen[0])
    if not 0 < value < math.inf:
        raise UserError(f"{chosen[0]}={value} must be above 0 and finite.")
