"""Named architectures: complete tables of shapes, each from a published model.

`num_kv_heads` None is `num_heads`; `mlp_dim` None is `4 * embed_dim`.
"""

import difflib
from collections.abc import Mapping

from jaxdp.errors import UserError
from jaxdp.model.config import TransformerConfig


def _gpt2(num_layers: int, num_heads: int, embed_dim: int) -> dict:
    """Source: Radford et al. 2019, table 2; GELU in its tanh form as in the released code."""
    return {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": None,
        "embed_dim": embed_dim,
        "mlp_dim": None,
        "dropout_rate": 0.1,
        "norm": "layernorm",
        "norm_position": "pre",
        "positions": "learned",
        "rotary_base": 10000.0,
        "activation": "gelu_tanh",
        "use_bias": True,
        "tie_embeddings": True,
    }


def _llama(
    num_layers: int, num_heads: int, num_kv_heads: int, embed_dim: int, mlp_dim: int, rotary_base: float
) -> dict:
    """Source: Llama 3 (Grattafiori et al. 2024, table 3) and the Llama 3.2 model card.

    Departs: no rescaling of the rotary frequencies for contexts beyond 8192 tokens.
    """
    return {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "embed_dim": embed_dim,
        "mlp_dim": mlp_dim,
        "dropout_rate": 0.0,
        "norm": "rmsnorm",
        "norm_position": "pre",
        "positions": "rotary",
        "rotary_base": rotary_base,
        "activation": "swiglu",
        "use_bias": False,
        "tie_embeddings": True,
    }


PRESETS: dict[str, dict] = {
    # nanoGPT's recipe for a laptop without a GPU (config/train_shakespeare_char.py, README).
    "nano": _gpt2(4, 4, 128) | {"activation": "gelu", "use_bias": False, "dropout_rate": 0.0},
    "gpt2": _gpt2(12, 12, 768),
    "gpt2_medium": _gpt2(24, 16, 1024),
    "gpt2_large": _gpt2(36, 20, 1280),
    "gpt2_xl": _gpt2(48, 25, 1600),
    # Llama's parts at nano's size; the MLP is 8/3 as wide as the stream, rounded up to 128.
    "llama_nano": _llama(4, 4, 2, 128, 384, 10000.0),
    "llama3_1b": _llama(16, 32, 8, 2048, 8192, 500000.0),
}


def model_config(
    preset: str, overrides: Mapping[str, object], *, vocab_size: int, max_length: int, causal: bool = True
) -> TransformerConfig:
    """The configuration of a preset with some keys changed.

    Args:
        preset: A key of PRESETS.
        overrides: Keys of `config.model` but `preset` and `vocab_size`; one that
            is not None beats the preset. `dtype` is float32 or bfloat16, not auto.
        vocab_size: Rows of the token embedding.
        max_length: Longest row in tokens.
        causal: Whether a token sees only itself and earlier tokens.

    Raises:
        UserError: an unknown preset or key, or a value that does not fit.
    """
    if preset not in PRESETS:
        raise UserError(f"model.preset is {preset!r}{_nearest(preset, PRESETS)}")
    own = ("vocab_size", "max_length", "causal")
    known = [key for key in TransformerConfig.__dataclass_fields__ if key not in own]
    for key in overrides:
        if key not in known:
            raise UserError(f"model.{key} is not a key of the model{_nearest(key, known)}")
    values = PRESETS[preset] | {key: value for key, value in overrides.items() if value is not None}
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_heads"]
    if values["mlp_dim"] is None:
        values["mlp_dim"] = 4 * values["embed_dim"]
    return TransformerConfig(vocab_size=vocab_size, max_length=max_length, causal=causal, **values)


def _nearest(name: str, known) -> str:
    """The end of an error message: the nearest valid name, and all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"{f'; did you mean {near[0]}?' if near else '.'} Valid are: {', '.join(known)}."
