"""GPT-2 (Radford et al. 2019): tensors and configuration of Hugging Face."""

from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, activation_key

BODY = (
    ("wte.weight", "token_embedding"),
    ("wpe.weight", "position_embedding"),
    ("h.{}.ln_1.weight", "layer_{}/attention_norm/scale"),
    ("h.{}.ln_1.bias", "layer_{}/attention_norm/bias"),
    ("h.{}.attn.c_attn.weight", "layer_{}/attention/query|key|value/kernel"),
    ("h.{}.attn.c_attn.bias", "layer_{}/attention/query|key|value/bias"),
    ("h.{}.attn.c_proj.weight", "layer_{}/attention/out/kernel"),
    ("h.{}.attn.c_proj.bias", "layer_{}/attention/out/bias"),
    ("h.{}.ln_2.weight", "layer_{}/mlp_norm/scale"),
    ("h.{}.ln_2.bias", "layer_{}/mlp_norm/bias"),
    ("h.{}.mlp.c_fc.weight", "layer_{}/mlp/up/kernel"),
    ("h.{}.mlp.c_fc.bias", "layer_{}/mlp/up/bias"),
    ("h.{}.mlp.c_proj.weight", "layer_{}/mlp/down/kernel"),
    ("h.{}.mlp.c_proj.bias", "layer_{}/mlp/down/bias"),
    ("ln_f.weight", "final_norm/scale"),
    ("ln_f.bias", "final_norm/bias"),
)

_to_model, _to_theirs = activation_key("activation_function")

GPT2 = Family(
    model_type="gpt2",
    body=BODY,
    prefixes=("transformer.",),
    ignored=((r"h\.\d+\.attn\.(bias|masked_bias)", "causal mask, which has no learned values"),),
    architectures={
        "GPT2LMHeadModel": Architecture(
            task="causal_lm",
            prefix="transformer.",
            head=(("lm_head.weight", "output/kernel.T"),),
            tied=(("lm_head.weight", "wte.weight"),),
        ),
        "GPT2Model": Architecture(task="causal_lm"),
        "GPT2ForSequenceClassification": Architecture(
            task="classification",
            prefix="transformer.",
            head=(("score.weight", "classifier/output/kernel.T"),),
            options={"pooling": "last"},
            model={"classifier_bias": False},
            ignored=((r"lm_head\.weight", "language model head, which this architecture does not use"),),
        ),
    },
    config=ConfigKeys(
        same={
            "vocab_size": "vocab_size",
            "n_positions": "max_length",
            "n_embd": "embed_dim",
            "n_layer": "num_layers",
            "n_head": "num_heads",
            "layer_norm_epsilon": "norm_epsilon",
            "resid_pdrop": "dropout_rate",
            "attn_pdrop": "attention_dropout_rate",
            "tie_word_embeddings": "tie_embeddings",
        },
        defaults={
            "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
            "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1,
            "activation_function": "gelu_new", "tie_word_embeddings": True,
        },
        fixed={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        free=frozenset(
            ("embd_pdrop", "n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation",
             "summary_first_dropout", "summary_proj_to_labels")
        ),
        model={
            "architecture": "decoder", "norm": "layernorm", "norm_position": "pre", "positions": "learned",
            "use_bias": True,
        },
        translated=frozenset(("activation_function", "n_inner")),
        to_model=lambda values: _to_model(values) | {"mlp_dim": values["n_inner"] or 4 * values["n_embd"]},
        to_theirs=lambda model: _to_theirs(model)
        | {
            "n_inner": None if model["mlp_dim"] == 4 * model["embed_dim"] else model["mlp_dim"],
            "embd_pdrop": model["dropout_rate"],
        },
    ),
)  # fmt: skip
