"""Options of published families at the size of `tiny_config`, by plain keys of the model."""

LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "num_kv_heads": 2}

FAMILIES = {
    "qwen2": LLAMA | {"qkv_bias": True},
    "qwen3": LLAMA | {"qk_norm": True, "head_dim": 6, "num_kv_heads": 1},
    "gemma3": LLAMA
    | {
        "activation": "geglu_tanh",
        "qk_norm": True,
        "head_dim": 6,
        "norm_offset": 1.0,
        "embedding_scale": 4.0,
        "attention_scale": 0.3,
    },
    "t5_v1_1": {
        "architecture": "encoder_decoder",
        "norm": "rmsnorm",
        "positions": "relative",
        "activation": "geglu_tanh",
        "head_dim": 6,
        "attention_scale": 1.0,
        "tie_embeddings": False,
        "share_embeddings": True,
    },
    "marian": {
        "architecture": "encoder_decoder",
        "norm_position": "post",
        "positions": "sinusoidal",
        "embedding_scale": 1.0,
        "activation": "silu",
        "use_bias": True,
        "share_embeddings": True,
    },
    "modernbert": {
        "architecture": "encoder",
        "head": "masked_lm",
        "positions": "rotary",
        "activation": "geglu",
        "embedding_norm": True,
    },
}
