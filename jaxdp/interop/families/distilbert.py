"""DistilBERT (Sanh et al. 2019): tensors and configuration of Hugging Face."""

from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, activation_key, encoder_of

BODY = (
    ("embeddings.word_embeddings.weight", "token_embedding"),
    ("embeddings.position_embeddings.weight", "position_embedding"),
    ("embeddings.LayerNorm.weight", "embedding_norm/scale"),
    ("embeddings.LayerNorm.bias", "embedding_norm/bias"),
    ("transformer.layer.{}.attention.q_lin.weight", "layer_{}/attention/query/kernel.T"),
    ("transformer.layer.{}.attention.q_lin.bias", "layer_{}/attention/query/bias"),
    ("transformer.layer.{}.attention.k_lin.weight", "layer_{}/attention/key/kernel.T"),
    ("transformer.layer.{}.attention.k_lin.bias", "layer_{}/attention/key/bias"),
    ("transformer.layer.{}.attention.v_lin.weight", "layer_{}/attention/value/kernel.T"),
    ("transformer.layer.{}.attention.v_lin.bias", "layer_{}/attention/value/bias"),
    ("transformer.layer.{}.attention.out_lin.weight", "layer_{}/attention/out/kernel.T"),
    ("transformer.layer.{}.attention.out_lin.bias", "layer_{}/attention/out/bias"),
    ("transformer.layer.{}.sa_layer_norm.weight", "layer_{}/attention_norm/scale"),
    ("transformer.layer.{}.sa_layer_norm.bias", "layer_{}/attention_norm/bias"),
    ("transformer.layer.{}.ffn.lin1.weight", "layer_{}/mlp/up/kernel.T"),
    ("transformer.layer.{}.ffn.lin1.bias", "layer_{}/mlp/up/bias"),
    ("transformer.layer.{}.ffn.lin2.weight", "layer_{}/mlp/down/kernel.T"),
    ("transformer.layer.{}.ffn.lin2.bias", "layer_{}/mlp/down/bias"),
    ("transformer.layer.{}.output_layer_norm.weight", "layer_{}/mlp_norm/scale"),
    ("transformer.layer.{}.output_layer_norm.bias", "layer_{}/mlp_norm/bias"),
)

MASKED_LM_HEAD = (
    ("vocab_transform.weight", "masked_lm/dense/kernel.T"),
    ("vocab_transform.bias", "masked_lm/dense/bias"),
    ("vocab_layer_norm.weight", "masked_lm/norm/scale"),
    ("vocab_layer_norm.bias", "masked_lm/norm/bias"),
    ("vocab_projector.bias", "output_bias"),
    ("vocab_projector.weight", "output/kernel.T"),
)

_to_model, _to_theirs = activation_key("activation", {"gelu": "gelu", "relu": "relu", "gelu_new": "gelu_tanh"})

DISTILBERT = Family(
    model_type="distilbert",
    body=BODY,
    prefixes=("distilbert.",),
    ignored=((r"embeddings\.position_ids", "positions in order, which have no learned values"),),
    architectures={
        "DistilBertForMaskedLM": Architecture(
            task="masked_lm",
            prefix="distilbert.",
            head=MASKED_LM_HEAD,
            tied=(("vocab_projector.weight", "embeddings.word_embeddings.weight"),),
        ),
        "DistilBertModel": encoder_of((r"vocab_.*", "head, which this architecture does not have")),
        "DistilBertForSequenceClassification": Architecture(
            task="classification",
            prefix="distilbert.",
            head=(
                ("pre_classifier.weight", "classifier/pooler/kernel.T"),
                ("pre_classifier.bias", "classifier/pooler/bias"),
                ("classifier.weight", "classifier/output/kernel.T"),
                ("classifier.bias", "classifier/output/bias"),
            ),
            options={"pooling": "first"},
            model={"pooler": "relu"},
        ),
    },
    config=ConfigKeys(
        same={
            "vocab_size": "vocab_size",
            "max_position_embeddings": "max_length",
            "dim": "embed_dim",
            "n_layers": "num_layers",
            "n_heads": "num_heads",
            "hidden_dim": "mlp_dim",
            "dropout": "dropout_rate",
            "attention_dropout": "attention_dropout_rate",
            "tie_word_embeddings": "tie_embeddings",
        },
        defaults={
            "vocab_size": 30522, "max_position_embeddings": 512, "dim": 768, "n_layers": 6, "n_heads": 12,
            "hidden_dim": 3072, "dropout": 0.1, "attention_dropout": 0.1, "activation": "gelu",
            "tie_word_embeddings": True,
        },
        # The position table is in the folder, whether it was learned or not.
        free=frozenset(("qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_", "output_past")),
        model={
            "architecture": "encoder", "norm": "layernorm", "norm_position": "post", "norm_epsilon": 1e-12,
            "positions": "learned", "embedding_norm": True, "num_token_types": 0, "use_bias": True,
        },
        translated=frozenset(("activation",)),
        to_model=_to_model,
        to_theirs=_to_theirs,
    ),
)  # fmt: skip
