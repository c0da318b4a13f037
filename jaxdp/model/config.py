"""Transformer configuration: sizes and architecture choices."""

import dataclasses
import math

from jaxdp.model.config_checks import DATA_KEYS, check_config
from jaxdp.model.lora import Lora, adapter_of

HEAD_PARAMETERS = ("classifier", "masked_lm", "output", "output_bias")
"""First path element of head parameters; all other parameters are the body."""

POSITION_EMBEDDING = "position_embedding"
"""Path of learned positions, the only body parameter whose size depends on the sequence length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Settings of one stack (encoder or decoder) that can differ between the stacks of a model.

    Attributes:
        num_layers: Number of blocks.
        max_length: Maximum sequence length in tokens.
        length_key: Configuration key of `max_length`, for error messages.
        causal: Whether a token attends only to itself and earlier tokens.
        cross_attention: Whether each block also attends to the encoder output.
        vocab_size: Vocabulary size of the tokens of the stack.
        first_layer: Index of the first block, counted over all stacks, so that the stacks
            have different dropout masks.
        branch_init_stddev: Standard deviation of the initial output projection of each
            residual branch; 0: zeros. Source: Radford et al. 2019, section 2.3.
    """

    num_layers: int
    max_length: int
    length_key: str
    causal: bool
    cross_attention: bool
    vocab_size: int
    first_layer: int
    branch_init_stddev: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Complete configuration of a Transformer; equal configurations build equal models.

    Sizes with `target` apply to the decoder of an encoder-decoder; other architectures
    ignore them.

    Attributes:
        architecture: "decoder" (causal attention), "encoder" (bidirectional attention) or
            "encoder_decoder" (an encoder for the source, and a decoder with cross-attention).
        vocab_size: Vocabulary size of the tokens; of the source tokens in an encoder-decoder.
        target_vocab_size: Vocabulary size of the target tokens.
        max_length: Maximum sequence length in tokens; the size of the learned position table.
        max_target_length: Maximum target length in tokens.
        num_layers: Number of blocks; of the encoder in an encoder-decoder.
        num_decoder_layers: Number of decoder blocks in an encoder-decoder.
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads, a divisor of `num_heads`; a smaller
            number gives grouped-query attention. Source: Ainslie et al. 2023.
        embed_dim: Width of the residual stream.
        head_dim: Number of features per head.
        mlp_dim: Width of the hidden layer of the MLP.
        dropout_rate: Dropout rate of embeddings, residual branches and the input of a classifier.
        attention_dropout_rate: Dropout rate of the attention probabilities.
        attention_window: Self-attention sees the keys less than this number of tokens away, the token itself
            included; 0: all. Source: Jiang et al. 2023 (Mistral 7B), section 2.
        attention_window_pattern: Whether each layer of a stack has the window (1) or sees all keys (0), repeated over the
            layers; (): all have it. Source: Gemma Team 2024 (Gemma 2), section 2; Warner et al. 2024 (ModernBERT),
            section 2.1.
        attention_logit_softcap: Bound of the attention scores, `softcap * tanh(scores / softcap)`; 0: no bound.
            Source: Gemma Team 2024 (Gemma 2), section 2.
        attention_scale: Factor of the attention scores, before they are bounded. Source: Vaswani et al. 2017, section
            3.2.1 (`head_dim ** -0.5`); Raffel et al. 2020 (T5), which has 1.
        qkv_bias: Whether the projections to queries, keys and values have biases. Source: Bai et al. 2023 (Qwen),
            section 2.2.
        qk_norm: Whether every head normalises its queries and keys by RMSNorm with a learned scale, before rotary
            positions, which bounds the attention scores. Source: Dehghani et al. 2023 (ViT-22B), section 2, which uses
            LayerNorm; RMSNorm as in modded-nanogpt, where it has no learned scale.
        zero_init_residual: Whether the output projection of every residual branch is initially zero, so that blocks
            with `norm_position="pre"` are initially the identity. Source: Zhang et al. 2019 (Fixup), section 3; for
            Transformers modded-nanogpt.
        residual_scalars: Whether every block starts from `a * x + b * x0` in place of the residual stream `x`, where
            `x0` are the embeddings and `a` and `b` are learned, initially 1 and 0. Source: modded-nanogpt; nanochat
            (`resid_lambdas`, `x0_lambdas`).
        output_bias: Whether the logits over the vocabulary have a bias; None: with `use_bias` in the "masked_lm" head.
        output_scale: Factor of the hidden states that the output layer maps to logits. Source: Raffel et al. 2020 (T5),
            released code, which has `embed_dim ** -0.5` with tied embeddings.
        value_embeddings: Whether every second layer of a stack, the last one included, adds a learned embedding of the
            token, times a learned factor, to the values of self-attention. Costs no FLOPs, but `vocab_size` x
            `num_kv_heads` x `head_dim` parameters in each of these layers. Source: Zhou et al. 2024 (ResFormer), whose
            values are those of the first layer; as embeddings in modded-nanogpt and nanochat.
        logit_softcap: Bound of the logits over the vocabulary, `softcap * tanh(logits / softcap)`; 0: no bound.
            Source: Gemma Team 2024 (Gemma 2), section 2; modded-nanogpt.
        norm: "layernorm" or "rmsnorm".
        norm_position: "pre" (before each branch, and after the last block), "post" (after
            each residual addition) or "both" (before and after each branch, and after the last block). Source: Gemma
            Team 2024 (Gemma 2), section 2 (both).
        first_attention_norm: Whether the first block normalises the input of its attention; False for embeddings that
            `embedding_norm` has normalised. Source: Warner et al. 2024 (ModernBERT), section 2.1.
        norm_epsilon: Constant added to the variance.
        norm_offset: Constant added to the learned scales of norms, which are initially 1 minus it. Source: Gemma Team
            2024 (Gemma), released code, which has 1.
        embedding_norm: Whether to normalise the sum of the embeddings.
        embedding_scale: Factor of the token embeddings, not of the output layer. Source: Vaswani et al. 2017, section
            3.4 (`embed_dim ** 0.5`).
        positions: "learned", "sinusoidal", "rotary" or "relative".
        position_offset: Index of the first position in the table of learned positions, which has as many more rows.
            Source: Liu et al. 2019 (RoBERTa), released code, which has the id of the padding token plus 1.
        relative_buckets: Number of buckets of relative distances. Source: Raffel et al. 2020 (T5), section 2.1.
        relative_max_distance: Distance in tokens from which all distances share the last bucket.
        rotary_base: Base of the wavelengths of rotary positions.
        rotary_local_base: Base in layers with an attention window, which `rope_scaling` then leaves alone; 0: that of
            the other layers. Source: Gemma Team 2025 (Gemma 3), section 2.
        rotary_fraction: Fraction of the features of a head, the first ones, that rotate. Source: Black et al. 2022
            (GPT-NeoX-20B), section 2.1.
        rope_scaling: Scaling of rotary frequencies to longer contexts: "none", "linear", "llama3" or "yarn", with sources
            in `rotary.py`. "linear" by 1 is "none" with frequencies rounded as on Hugging Face.
        rope_factor: Number by which low frequencies are divided.
        rope_low_freq_factor: Frequencies with fewer rotations than this over `rope_original_length` are divided ("llama3";
            "yarn" calls it beta_slow).
        rope_high_freq_factor: Frequencies with more rotations than this are kept ("yarn": beta_fast).
        rope_original_length: Length in tokens of the pre-training.
        rope_attention_factor: Factor of cosines and sines with "yarn"; 0: `0.1 ln(rope_factor) + 1`.
        num_token_types: Number of token types (segments of a pair); 0: no type embedding.
        activation: Activation of the MLP: "gelu", "gelu_tanh", "relu", "relu2" or "silu"; with a gate "swiglu", "geglu"
            or "geglu_tanh". Source: Shazeer 2020 (gates).
        use_bias: Whether dense layers, except those of `qkv_bias`, and LayerNorm have biases.
        tie_embeddings: Whether the output layer is the transpose of the (target) token embedding.
        share_embeddings: Whether source and target share one token embedding.
        pooler: Layer of a classifier between pooling and the class scores: "none", a dense layer with "tanh" or "relu", or
            "gelu_norm" (dense layer, GELU, norm); "auto": "tanh" for pooling "first", else "none".
        classifier_bias: Whether class scores have a bias.
        head: "language_model", "masked_lm" (a transform before the output layer) or
            "classification" (one vector of class scores per sequence) or "none" (the final hidden states).
        num_labels: Number of classes; 0 for other heads.
        pooling: Pooling of a classifier over the valid tokens: "first", "mean" or "last".
        dtype: Compute dtype, "float32" or "bfloat16"; parameters are always float32.
        remat: Rematerialization in the backward pass. A layer saves everything ("none"), the results of its dense
            layers ("dots") and of attention ("dots_attention"), those of attention alone ("attention") or nothing
            ("full"), and recomputes the rest.
        scan_layers: Whether to compile one layer and scan over all; parameters then have a
            layer axis.
        attention: Attention implementation: "auto" (the fused kernel of the platform where it supports the model, else
            plain), "plain", "cudnn" or "splash". With a KV cache it is always plain.
        platform: Platform of the devices for which programs are compiled: "cpu", "gpu" or "tpu". It need not be that
            of this process, which may compile for devices that it does not have.
        lora_rank: Rank of the low-rank adapters of dense layers; 0: none. See `jaxdp/model/lora.py`.
        lora_alpha: Factor of what adapters add, times `lora_rank`; 0: `lora_rank`.
        lora_layers: Regular expressions of the layers with an adapter, by their path in a block, such as
            "attention/query" or "mlp/.*".
        loss_chunk: Maximum number of tokens whose logits a loss holds at once; None: chosen by
            `output_layer.num_chunks`; 0: all.

    Raises:
        UserError: A value is out of range, or two values are incompatible.
    """

    architecture: str
    vocab_size: int
    target_vocab_size: int
    max_length: int
    max_target_length: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    num_kv_heads: int
    embed_dim: int
    head_dim: int
    mlp_dim: int
    dropout_rate: float
    attention_dropout_rate: float
    attention_window: int
    attention_window_pattern: tuple[int, ...]
    attention_logit_softcap: float
    attention_scale: float
    qkv_bias: bool
    qk_norm: bool
    zero_init_residual: bool
    residual_scalars: bool
    output_bias: bool | None
    output_scale: float
    value_embeddings: bool
    logit_softcap: float
    norm: str
    norm_position: str
    first_attention_norm: bool
    norm_epsilon: float
    norm_offset: float
    embedding_norm: bool
    embedding_scale: float
    positions: str
    position_offset: int
    relative_buckets: int
    relative_max_distance: int
    rotary_base: float
    rotary_local_base: float
    rotary_fraction: float
    rope_scaling: str
    rope_factor: float
    rope_low_freq_factor: float
    rope_high_freq_factor: float
    rope_original_length: int
    rope_attention_factor: float
    num_token_types: int
    activation: str
    use_bias: bool
    tie_embeddings: bool
    share_embeddings: bool
    pooler: str
    classifier_bias: bool
    head: str = "language_model"
    num_labels: int = 0
    pooling: str = "first"
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "auto"
    platform: str = "cpu"
    loss_chunk: int | None = None
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_layers: tuple[str, ...] = ()

    @property
    def has_dropout(self) -> bool:
        """True if training samples dropout masks."""
        return self.dropout_rate > 0 or self.attention_dropout_rate > 0

    @property
    def init_stddev(self) -> float:
        """Standard deviation of initial kernels and embeddings.

        Source: Nguyen and Salazar 2019, Transformers without Tears, section 2.2
        (SmallInit). At GPT-2's width of 768 it is close to GPT-2's constant (0.023
        instead of 0.02); narrow models learn much faster with it than with the constant.
        """
        return math.sqrt(2 / (5 * self.embed_dim))

    @property
    def has_source(self) -> bool:
        """True for an encoder-decoder, which has a source and a target."""
        return self.architecture == "encoder_decoder"

    @property
    def output_vocab_size(self) -> int:
        """Vocabulary size of the predicted tokens."""
        return self.target_vocab_size if self.has_source else self.vocab_size

    @property
    def rotary_dim(self) -> int:
        """Number of features per head that rotate."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def has_input_norms(self) -> bool:
        """True if the input of each residual branch is normalised, and so is the output of the last block."""
        return self.norm_position != "post"

    def lora(self, layer: str) -> Lora | None:
        """Returns the adapter of a dense layer by its path in a block, such as "attention/query"; None: it has none."""
        return adapter_of(layer, self.lora_rank, self.lora_alpha, self.lora_layers)

    def is_windowed(self, layer: int) -> bool:
        """Returns whether self-attention of a layer, counted within its stack, has the window."""
        pattern = self.attention_window_pattern or (1,)
        return self.attention_window > 0 and bool(pattern[layer % len(pattern)])

    @property
    def has_mixed_windows(self) -> bool:
        """True if some layers have an attention window and others do not."""
        return len(set(self.attention_window_pattern)) > 1

    @property
    def has_output_bias(self) -> bool:
        """True if the logits over the vocabulary have a bias."""
        return self.head == "masked_lm" and self.use_bias if self.output_bias is None else self.output_bias

    @property
    def encoder(self) -> StackConfig:
        """Settings of the encoder."""
        return self._stack(causal=False, cross_attention=False)

    @property
    def decoder(self) -> StackConfig:
        """Settings of the decoder."""
        return self._stack(causal=True, cross_attention=self.has_source)

    def _stack(self, *, causal: bool, cross_attention: bool) -> StackConfig:
        num_layers = self.num_decoder_layers if cross_attention else self.num_layers
        num_branches = (3 if cross_attention else 2) * num_layers
        length_key = "max_target_length" if cross_attention else "max_length"
        return StackConfig(
            num_layers=num_layers,
            max_length=getattr(self, length_key),
            length_key=DATA_KEYS[length_key],
            causal=causal,
            cross_attention=cross_attention,
            vocab_size=self.target_vocab_size if cross_attention else self.vocab_size,
            first_layer=self.num_layers if cross_attention else 0,
            branch_init_stddev=0.0 if self.zero_init_residual else self.init_stddev / math.sqrt(num_branches),
        )

    def __post_init__(self):
        check_config(self)
