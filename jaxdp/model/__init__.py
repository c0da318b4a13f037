"""Transformer model: configuration, presets, module, KV cache, parameter counts and FLOPs.

Names are imported at first use, so that presets and configurations are read without jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdp.model.accounting import (
        flops_per_sequence,
        flops_per_token,
        init_params,
        min_parameters,
        num_parameters,
        parameter_shapes,
    )
    from jaxdp.model.attention_backends.registry import attention_line, model_backend
    from jaxdp.model.cache import KVCache, init_cache
    from jaxdp.model.choices import CHOICES, HEADS, POOLINGS
    from jaxdp.model.config import HEAD_PARAMETERS, POSITION_EMBEDDING, TransformerConfig
    from jaxdp.model.presets import PRESETS, model_config, preset_values
    from jaxdp.model.scanned_layers import stack_layers, unstack_layers
    from jaxdp.model.transformer import Transformer

__all__ = [
    "CHOICES",
    "HEADS",
    "HEAD_PARAMETERS",
    "POOLINGS",
    "POSITION_EMBEDDING",
    "PRESETS",
    "KVCache",
    "Transformer",
    "TransformerConfig",
    "attention_line",
    "flops_per_sequence",
    "flops_per_token",
    "init_cache",
    "init_params",
    "min_parameters",
    "model_backend",
    "model_config",
    "num_parameters",
    "parameter_shapes",
    "preset_values",
    "stack_layers",
    "unstack_layers",
]

_MODULES = {
    "CHOICES": "jaxdp.model.choices",
    "HEADS": "jaxdp.model.choices",
    "HEAD_PARAMETERS": "jaxdp.model.config",
    "KVCache": "jaxdp.model.cache",
    "POOLINGS": "jaxdp.model.choices",
    "POSITION_EMBEDDING": "jaxdp.model.config",
    "PRESETS": "jaxdp.model.presets",
    "Transformer": "jaxdp.model.transformer",
    "TransformerConfig": "jaxdp.model.config",
    "attention_line": "jaxdp.model.attention_backends.registry",
    "flops_per_sequence": "jaxdp.model.accounting",
    "flops_per_token": "jaxdp.model.accounting",
    "init_cache": "jaxdp.model.cache",
    "init_params": "jaxdp.model.accounting",
    "min_parameters": "jaxdp.model.accounting",
    "model_backend": "jaxdp.model.attention_backends.registry",
    "model_config": "jaxdp.model.presets",
    "num_parameters": "jaxdp.model.accounting",
    "parameter_shapes": "jaxdp.model.accounting",
    "preset_values": "jaxdp.model.presets",
    "stack_layers": "jaxdp.model.scanned_layers",
    "unstack_layers": "jaxdp.model.scanned_layers",
}
"""Name -> module that has it."""


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
