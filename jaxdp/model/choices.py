"""Valid values of the choices of a model: architecture, norm, positions, heads, pooling and more."""

GATED_UNITS = ("swiglu", "geglu", "geglu_tanh")
"""Activations of an MLP with a gate."""

CHOICES = {
    "architecture": ("decoder", "encoder", "encoder_decoder"),
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post", "both"),
    "positions": ("learned", "sinusoidal", "rotary", "relative"),
    "rope_scaling": ("none", "linear", "llama3", "yarn"),
    "activation": ("gelu", "gelu_tanh", "relu", "relu2", "silu", *GATED_UNITS),
    "pooler": ("auto", "none", "tanh", "relu", "gelu_norm"),
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "dots_attention", "dots", "attention", "full"),
    "attention": ("auto", "plain", "cudnn", "splash"),
}
"""Valid values of each choice in the configuration."""

HEADS = {
    "language_model": ("decoder", "encoder", "encoder_decoder"),
    "masked_lm": ("encoder",),
    "classification": ("encoder", "decoder"),
    "none": ("encoder", "decoder"),
}
"""Model heads, and the architectures that support them."""

POOLINGS = ("first", "mean", "last")
"""Methods of a classifier to reduce the hidden states of a sequence to one vector."""
