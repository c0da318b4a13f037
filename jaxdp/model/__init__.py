"""Transformer model: configuration, presets, module, KV cache, parameter counts and FLOPs."""

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
