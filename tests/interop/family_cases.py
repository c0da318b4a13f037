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
DECODER = {**SMALL, "max_position_embeddings": 64, "num_key_value_heads": 2}
SHORT = {"rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
"""Scaling that lengths beyond 16 tokens need."""
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 0.2, "high_freq_factor": 0.9, **SHORT}
YARN = {"rope_type": "yarn", "beta_slow": 0.1, "beta_fast": 0.8, **SHORT}
MODERNBERT = {**SMALL, "num_hidden_layers": 4, "max_position_embeddings": 64, "local_attention": 8}
GEMMA3 = {
    **DECODER, "num_hidden_layers": 3, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
T5 = {
    "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
}  # fmt: skip
MARIAN = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
    "activation_function": "swish", "scale_embedding": True, "decoder_start_token_id": 95, "pad_token_id": 95,
    "forced_eos_token_id": None,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}

CASES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2_untied": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "gpt2_classifier": ("GPT2ForSequenceClassification", "GPT2Config", {**GPT2, "num_labels": 3}),
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "bert_untied": ("BertForMaskedLM", "BertConfig", {**BERT, "tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "bert_encoder": ("BertModel", "BertConfig", BERT),
    "bert_classifier": ("BertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 3}),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", ROBERTA),
    "roberta_classifier": ("RobertaForSequenceClassification", "RobertaConfig", {**ROBERTA, "num_labels": 3}),
    "xlm_roberta_untied": (
        "XLMRobertaForMaskedLM",
        "XLMRobertaConfig",
        {**ROBERTA, "tie_word_embeddings": False, "pad_token_id": 2},
    ),
    "roberta_encoder": ("RobertaModel", "RobertaConfig", ROBERTA),
    "xlm_roberta_encoder": ("XLMRobertaModel", "XLMRobertaConfig", ROBERTA),
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
    "distilbert_encoder": ("DistilBertModel", "DistilBertConfig", DISTILBERT),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "rope_parameters": LLAMA3}),
    "llama_biases": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**DECODER, "attention_bias": True, "mlp_bias": True, "head_dim": 6, "tie_word_embeddings": True},
    ),
    "llama_linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**DECODER, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "llama_classifier": ("LlamaForSequenceClassification", "LlamaConfig", {**DECODER, "num_labels": 3}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": 5, "head_dim": 12}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**DECODER, "rope_parameters": YARN}),
    "qwen2_windows": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {
            **DECODER,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 12, "tie_word_embeddings": True}),
    "qwen3_classifier": ("Qwen3ForSequenceClassification", "Qwen3Config", {**DECODER, "head_dim": 12, "num_labels": 2}),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", MODERNBERT),
    "modernbert_untied": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**MODERNBERT, "tie_word_embeddings": False, "decoder_bias": False, "layer_types": ["full_attention"] * 4},
    ),
    "modernbert_classifier": (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {**MODERNBERT, "num_labels": 3, "classifier_pooling": "mean"},
    ),
    "modernbert_encoder": ("ModernBertModel", "ModernBertConfig", MODERNBERT),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA3),
    "gemma3_scaled": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **GEMMA3,
            "final_logit_softcapping": 5.0,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "gemma3_classifier": ("Gemma3TextForSequenceClassification", "Gemma3TextConfig", {**GEMMA3, "num_labels": 3}),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 1},
    ),
    "t5_encoder": ("T5EncoderModel", "T5Config", T5),
    "mt5_encoder": ("MT5EncoderModel", "MT5Config", {**T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", {**T5, "tie_word_embeddings": False}),
    "marian": ("MarianMTModel", "MarianConfig", MARIAN),
    "marian_relu": (
        "MarianMTModel",
        "MarianConfig",
        {**MARIAN, "scale_embedding": False, "activation_function": "relu"},
    ),
}
"""Name -> class of transformers, class of its configuration, and that configuration."""
