"""Small models of the weight families: class of transformers, class of its configuration, and the values of that configuration."""

VOCAB = 96

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
BERT = {**SMALL, "max_position_embeddings": 40}
ROBERTA = {**SMALL, "max_position_embeddings": 42, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}

CASES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2_untied": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "bert_untied": ("BertForMaskedLM", "BertConfig", {**BERT, "tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "bert_classifier": ("BertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 3}),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", ROBERTA),
    "roberta_classifier": ("RobertaForSequenceClassification", "RobertaConfig", {**ROBERTA, "num_labels": 3}),
    "xlm_roberta_untied": (
        "XLMRobertaForMaskedLM",
        "XLMRobertaConfig",
        {**ROBERTA, "tie_word_embeddings": False, "pad_token_id": 2},
    ),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT),
    "distilbert_untied": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {**DISTILBERT, "tie_word_embeddings": False, "activation": "relu"},
    ),
    "distilbert_classifier": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {**DISTILBERT, "num_labels": 1},
    ),
}
"""Name -> class of transformers, class of its configuration, and that configuration."""
