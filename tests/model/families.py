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
    "t5": {
        "architecture": "encoder_decoder",
        "norm": "rmsnorm",
        "positions": "relative",
        "relative_buckets": 8,
        "relative_max_distance": 6,
        "activation": "relu",
        "attention_scale": 1.0,
        "output_scale": 0.25,
        "share_embeddings": True,
    },
    "marian": {
        "architecture": "encoder_decoder",
        "norm_position": "post",
        "positions": "sinusoidal",
        "embedding_scale": 1.0,
        "activation": "silu",
        "use_bias": True,
        "output_bias": True,
        "share_embeddings": True,
    },
    "roberta": {
        "architecture": "encoder",
        "head": "masked_lm",
        "norm_position": "post",
        "position_offset": 2,
        "num_token_types": 1,
        "activation": "gelu",
        "use_bias": True,
        "embedding_norm": True,
    },
    "modernbert": {
        "architecture": "encoder",
        "head": "masked_lm",
        "positions": "rotary",
        "activation": "geglu",
        "embedding_norm": True,
        "output_bias": True,
    },
}
