"""The Transformer: configuration, presets, module, KV cache, and its sizes."""

from jaxdp.model.accounting import flops_per_token, num_parameters, parameter_shapes
from jaxdp.model.cache import KVCache, init_cache
from jaxdp.model.config import CHOICES, TransformerConfig
from jaxdp.model.presets import PRESETS, model_config
from jaxdp.model.stacking import stack_layers, unstack_layers
from jaxdp.model.transformer import Transformer

__all__ = [
    "CHOICES",
    "PRESETS",
    "KVCache",
    "Transformer",
    "TransformerConfig",
    "flops_per_token",
    "init_cache",
    "model_config",
    "num_parameters",
    "parameter_shapes",
    "stack_layers",
    "unstack_layers",
]
