"""BERT (Devlin et al. 2019), with its sentence encoders: tensors and configuration of Hugging Face."""

import dataclasses

from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, activation_key, encoder_of

LAYER = (
    ("encoder.layer.{}.attention.self.query.weight", "layer_{}/attention/query/kernel.T"),
    ("encoder.layer.{}.attention.self.query.bias", "layer_{}/attention/query/bias"),
    ("encoder.layer.{}.attention.self.key.weight", "layer_{}/attention/key/kernel.T"),
    ("encoder.layer.{}.attention.self.key.bias", "layer_{}/attention/key/bias"),
    ("encoder.layer.{}.attention.self.value.weight", "layer_{}/attention/value/kernel.T"),
    ("encoder.layer.{}.attention.self.value.bias", "layer_{}/attention/value/bias"),
    ("encoder.layer.{}.attention.output.dense.weight", "layer_{}/attention/out/kernel.T"),
    ("encoder.layer.{}.attention.output.dense.bias", "layer_{}/attention/out/bias"),
    ("encoder.layer.{}.attention.output.LayerNorm.weight", "layer_{}/attention_norm/scale"),
    ("encoder.layer.{}.attention.output.LayerNorm.bias", "layer_{}/attention_norm/bias"),
    ("encoder.layer.{}.intermediate.dense.weight", "layer_{}/mlp/up/kernel.T"),
    ("encoder.layer.{}.intermediate.dense.bias", "layer_{}/mlp/up/bias"),
    ("encoder.layer.{}.output.dense.weight", "layer_{}/mlp/down/kernel.T"),
    ("encoder.layer.{}.output.dense.bias", "layer_{}/mlp/down/bias"),
    ("encoder.layer.{}.output.LayerNorm.weight", "layer_{}/mlp_norm/scale"),
    ("encoder.layer.{}.output.LayerNorm.bias", "layer_{}/mlp_norm/bias"),
)

EMBEDDINGS = (
    ("embeddings.word_embeddings.weight", "token_embedding"),
    ("embeddings.position_embeddings.weight", "position_embedding"),
    ("embeddings.token_type_embeddings.weight", "token_type_embedding"),
    ("embeddings.LayerNorm.weight", "embedding_norm/scale"),
    ("embeddings.LayerNorm.bias", "embedding_norm/bias"),
)

POOLER = (
    ("pooler.dense.weight", "classifier/pooler/kernel.T"),
    ("pooler.dense.bias", "classifier/pooler/bias"),
)

MASKED_LM_HEAD = (
    ("cls.predictions.transform.dense.weight", "masked_lm/dense/kernel.T"),
    ("cls.predictions.transform.dense.bias", "masked_lm/dense/bias"),
    ("cls.predictions.transform.LayerNorm.weight", "masked_lm/norm/scale"),
    ("cls.predictions.transform.LayerNorm.bias", "masked_lm/norm/bias"),
    ("cls.predictions.bias", "output_bias"),
    ("cls.predictions.decoder.weight", "output/kernel.T"),
)

NOT_USED = (
    (r"pooler\.dense\..*", "pooler, which this architecture does not use"),
    (r"cls\.seq_relationship\..*", "next-sentence head, which this architecture does not use"),
)

MASKED_LM = Architecture(
    task="masked_lm",
    prefix="bert.",
    head=MASKED_LM_HEAD,
    tied=(
        ("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    untied=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
    ignored=NOT_USED,
    spare=POOLER,
)

_to_model, _to_theirs = activation_key("hidden_act")

CONFIG = ConfigKeys(
    same={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_length",
        "hidden_size": "embed_dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "mlp_dim",
        "layer_norm_eps": "norm_epsilon",
        "type_vocab_size": "num_token_types",
        "hidden_dropout_prob": "dropout_rate",
        "attention_probs_dropout_prob": "attention_dropout_rate",
        "tie_word_embeddings": "tie_embeddings",
    },
    defaults={
        "vocab_size": 30522, "max_position_embeddings": 512, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
        "tie_word_embeddings": True,
    },
    fixed={
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    },
    free=frozenset(
        ("classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
         "pooler_size_per_head", "pooler_type")
    ),
    model={
        "architecture": "encoder", "norm": "layernorm", "norm_position": "post", "positions": "learned",
        "embedding_norm": True, "use_bias": True,
    },
    translated=frozenset(("hidden_act",)),
    to_model=_to_model,
    to_theirs=_to_theirs,
)  # fmt: skip

BERT = Family(
    model_type="bert",
    body=EMBEDDINGS + LAYER,
    prefixes=("bert.",),
    ignored=((r"embeddings\.position_ids", "positions in order, which have no learned values"),),
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    architectures={
        "BertForMaskedLM": MASKED_LM,
        "BertForPreTraining": dataclasses.replace(MASKED_LM, written_as="BertForMaskedLM"),
        "BertModel": dataclasses.replace(
            encoder_of(*NOT_USED, (r"cls\..*", "head, which this architecture does not have")), spare=POOLER
        ),
        "BertForSequenceClassification": Architecture(
            task="classification",
            prefix="bert.",
            body=POOLER,
            head=(("classifier.weight", "classifier/output/kernel.T"), ("classifier.bias", "classifier/output/bias")),
            options={"pooling": "first"},
        ),
    },
    config=CONFIG,
)
