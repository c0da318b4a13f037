"""Architecture of the model that learns a task: preset, keys of `config.model` and the needs of the task."""

import dataclasses

from jaxdp.errors import UserError
from jaxdp.hardware.host_memory import host_memory_bytes
from jaxdp.model import Transformer, TransformerConfig, min_parameters, model_backend, model_config
from jaxdp.report.terminal import memory_size
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Task

DEFAULT_PRESETS = {"decoder": "nano", "encoder": "encoder_nano", "encoder_decoder": "seq2seq_nano"}
"""Preset where `model.preset` is unset, by the first architecture of the task."""

MAX_LAYERS = 10_000
"""Largest depth that is built; the deepest Transformers published have 1,000."""


def default_preset(task: Task) -> str:
    """Returns the preset of a task where `model.preset` is unset."""
    return DEFAULT_PRESETS[task.architectures[0]]


def architecture(config: RunConfig, task: Task, vocab_size: int, platform: str = "cpu") -> TransformerConfig:
    """Returns the model that `config.model` describes.

    Args:
        config: `model` and `data` are used.
        task: Task with the vocabularies of the run.
        vocab_size: Size of the token embedding.
        platform: Platform of the devices that the model runs on; `dtype=auto` is float32 on "cpu", else bfloat16.

    Raises:
        UserError: A value does not fit, or the model cannot learn the task.
    """
    overrides = dataclasses.asdict(config.model)
    preset = overrides.pop("preset") or default_preset(task)
    overrides.pop("vocab_size")
    if overrides["dtype"] == "auto":
        overrides["dtype"] = "float32" if platform == "cpu" else "bfloat16"
    sizes = {"vocab_size": vocab_size, "max_length": config.data.length}
    model = model_config(preset, overrides, platform=platform, **sizes, **task.model_options)
    if model.architecture not in task.architectures:
        raise UserError(
            f"model.preset={preset} is of architecture {model.architecture}, which does not serve "
            f"task={config.task!r}; choose a preset that is {' or '.join(task.architectures)}, such as "
            f"{default_preset(task)}."
        )
    return model


def make_model(config: RunConfig, task: Task, vocab_size: int, platform: str) -> Transformer:
    """Returns the model for a platform, which determines what `dtype=auto` and `attention=auto` stand for.

    Args:
        config: `model` and `data` are used.
        task: Task with the vocabularies of the run.
        vocab_size: Size of the token embedding.
        platform: Platform of the devices that the model runs on, e.g. "cpu"; that of the topology.

    Raises:
        UserError: A value does not fit, the platform or the model does not suit the kernel that `model.attention`
            names, or this host cannot hold the model.
    """
    model = architecture(config, task, vocab_size, platform)
    model_backend(model)
    check_model_size(model)
    return Transformer(model)


def check_model_size(model: TransformerConfig) -> None:
    """Refuses a model that would take all memory, or hours, before anything of it is built.

    Raises:
        UserError: It has too many layers, or its parameters alone are larger than the memory of this host.
    """
    layers = max(model.num_layers, model.num_decoder_layers or 0)
    if layers > MAX_LAYERS:
        raise UserError(f"model.num_layers={layers} must be at most {MAX_LAYERS:,}: each layer is traced and compiled.")
    needed, present = 4 * min_parameters(model), host_memory_bytes()
    if needed > present:
        raise UserError(
            f"The parameters of this model (model.embed_dim={model.embed_dim}, num_layers={model.num_layers}, "
            f"mlp_dim={model.mlp_dim}, vocab_size={model.vocab_size}, data.length={model.max_length}) take at least {memory_size(needed)}, and this host has "
            f"{memory_size(present)}: make the model smaller, or use a larger machine."
        )
