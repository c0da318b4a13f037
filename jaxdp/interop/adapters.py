"""Low-rank adapters outside of jaxdp: merged into the kernels, or as a folder of PEFT next to the model they belong to.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint - `adapter_config.json`, and
`adapter_model.safetensors` with `lora_A.weight` `[rank, in_dim]` and `lora_B.weight` `[out_dim, rank]` of each module.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.errors import UserError
from jaxdp.interop.families.family import Architecture, Family
from jaxdp.interop.mapping import Tensor, tensors_of
from jaxdp.interop.source import ArraySpec, ParameterSource, SourceView
from jaxdp.model import TransformerConfig
from jaxdp.model.lora import LORA_A, LORA_B, adapter_factor, is_adapter, merged_kernel
from jaxdp.safetensors_file import write_arrays

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."

TASK_TYPES = {"classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
"""Task -> `task_type` of PEFT; other tasks have none."""


class MergedAdapters(SourceView):
    """Parameters of a model with adapters as those of the model without them that computes the same."""

    def __init__(self, source: ParameterSource, factor: float):
        """Creates the view; nothing is read.

        Args:
            source: Parameters with unrolled layers.
            factor: `lora_alpha / lora_rank` of the model.
        """
        super().__init__(source)
        self._factor = factor

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {path: spec for path, spec in self._source.arrays.items() if not is_adapter(path)}

    def read(self, name: str) -> np.ndarray:
        """Reads a parameter; see `ParameterSource.read`."""
        layer, _, leaf = name.rpartition("/")
        array = self._source.read(name)
        if leaf != "kernel" or f"{layer}/{LORA_A}" not in self._source.arrays:
            return array
        a, b = (self._source.read(f"{layer}/{each}") for each in (LORA_A, LORA_B))
        return merged_kernel(array, a, b, self._factor)


def write_adapter(
    folder: Path,
    source: ParameterSource,
    family: Family,
    architecture: Architecture,
    model: TransformerConfig,
    base: str | None,
) -> list[str]:
    """Writes the adapters of a model, and a classifier, as a folder that PEFT reads.

    Args:
        folder: Existing folder.
        source: Parameters with unrolled layers.
        family: Family of the model.
        architecture: Its class.
        model: Configuration with the adapters.
        base: Folder or Hub name of the model that the adapters belong to; None: unknown.

    Returns:
        Names of the modules with an adapter.

    Raises:
        UserError: The family has no module of its own for a layer with an adapter.
    """
    adapters = {path.rpartition("/")[0] for path in source.arrays if is_adapter(path)}
    plain = {path: spec.shape for path, spec in source.arrays.items() if not is_adapter(path)}
    modules: dict[str, str] = {}
    heads: dict[str, Tensor] = {}
    read: dict[str, Callable[[], np.ndarray]] = {}
    for tensor in tensors_of(family, architecture, plain):
        name = (architecture.prefix if tensor.in_body else "") + tensor.theirs
        first, *others = tensor.ours
        layers = [path.removesuffix("/kernel") for path in tensor.ours if path.removesuffix("/kernel") in adapters]
        if layers and others:
            raise UserError(
                f"{name} of {family.model_type} holds {' and '.join(tensor.ours)} in one tensor, so an adapter of {layers[0]} "
                "alone cannot be written; export without --adapter, which merges it."
            )
        if layers:
            modules[name.removesuffix(".weight")] = layers[0]
        elif first.startswith("classifier/"):
            heads[name] = tensor
    for module, layer in modules.items():
        read[f"{PREFIX}{module}.lora_A.weight"] = lambda layer=layer: source.read(f"{layer}/{LORA_A}").T
        read[f"{PREFIX}{module}.lora_B.weight"] = lambda layer=layer: source.read(f"{layer}/{LORA_B}").T
    for name, tensor in heads.items():
        read[PREFIX + name] = lambda tensor=tensor: tensor.joined(map(source.read, tensor.ours))
    specs = {name: ArraySpec("float32", make().shape) for name, make in sorted(read.items())}
    write_arrays(folder / WEIGHTS, specs, lambda name: np.ascontiguousarray(read[name]()), {"format": "pt"})
    saved = sorted({name.rpartition(".")[0] for name in heads})
    settings = _settings(architecture.task, model, sorted(modules), saved, base)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return sorted(modules)


def _settings(
    task: str, model: TransformerConfig, modules: list[str], saved: list[str], base: str | None
) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(task),
        "base_model_name_or_path": base,
        "r": model.lora_rank,
        "lora_alpha": adapter_factor(model.lora_rank, model.lora_alpha) * model.lora_rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": modules,
        "modules_to_save": saved or None,
        "inference_mode": True,
    }
