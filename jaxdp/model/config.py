"""The shape of one Transformer: every number and choice that the model depends on."""

import dataclasses
import math

from jaxdp.errors import UserError

CHOICES = {
    "architecture": ("decoder", "encoder", "encoder_decoder"),
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "positions": ("learned", "sinusoidal", "rotary", "relative"),
    "activation": ("gelu", "gelu_tanh", "relu", "relu2", "swiglu"),
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "dots", "full"),
    "attention": ("auto", "plain", "cudnn"),
}
"""The values that each choice of the configuration can take."""

HEADS = {
    "language_model": ("decoder", "encoder", "encoder_decoder"),
    "masked_lm": ("encoder",),
    "classification": ("encoder", "decoder"),
}
"""What stands on the last layer, and the architectures that it fits."""

HEAD_PARAMETERS = ("classifier", "masked_lm", "output", "output_bias")
"""First part of the paths of parameters that belong to a head; all others are the body."""

POSITIONS = "position_embedding"
"""Path of learned positions: the one parameter of the body whose size is a length."""

POOLINGS = ("first", "mean", "last")
"""How a classifier makes one vector of a row."""

_COUNTS = (
    "vocab_size", "target_vocab_size", "max_length", "max_target_length", "num_layers",
    "num_decoder_layers", "num_heads", "num_kv_heads", "embed_dim", "mlp_dim",
)

_NOT_UNDER_MODEL = {"max_length": "data.length", "max_target_length": "data.target_length"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """What sets one stack of layers apart from the other one of its model.

    Attributes:
        num_layers: Blocks.
        max_length: Longest row in tokens.
        length_key: The configuration key behind it, for messages.
        causal: Whether a token sees only itself and earlier tokens.
        cross_attention: Whether each block also attends to an encoded source.
        first_layer: Number of the first block in the count over all stacks,
            which tells the dropout masks of the stacks apart.
        branch_init_stddev: Standard deviation of new kernels that join the
            residual stream. Source: Radford et al. 2019, section 2.3.
    """

    num_layers: int
    max_length: int
    length_key: str
    causal: bool
    cross_attention: bool
    first_layer: int
    branch_init_stddev: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A complete description of a Transformer; equal configs make equal models.

    Names without `target` are those of what the model reads. An encoder-decoder
    writes as well: its decoder has the sizes with `target`, which the others ignore.

    Attributes:
        architecture: decoder (a token sees itself and earlier ones) | encoder (every
            token sees every other) | encoder_decoder (an encoder for the source, and a
            decoder that attends to it).
        vocab_size: Rows of the token embedding.
        target_vocab_size: Words that the decoder of an encoder-decoder knows.
        max_length: Longest row in tokens: the size of the learned position table.
        max_target_length: The same of the decoder of an encoder-decoder.
        num_layers: Blocks; in an encoder-decoder those of the encoder.
        num_decoder_layers: Blocks of the decoder of an encoder-decoder.
        num_heads: Query heads of one attention.
        num_kv_heads: Key and value heads, a divisor of `num_heads`; fewer is
            grouped-query attention (Source: Ainslie et al. 2023).
        embed_dim: Width of the residual stream.
        mlp_dim: Width inside the MLP.
        dropout_rate: On embeddings, attention probabilities, residual branches and
            what a classifier reads.
        norm: layernorm | rmsnorm.
        norm_position: pre (before each branch, and at the end) | post (after each addition).
        norm_epsilon: Added to the variance.
        embedding_norm: Normalise the sum of the embeddings too.
        positions: learned | sinusoidal | rotary | relative.
        rotary_base: Wavelength base of rotary positions; unused by the others.
        num_token_types: Rows of the table of token types (the sentences of a pair); 0: none.
        activation: gelu | gelu_tanh | relu | relu2 | swiglu.
        use_bias: Biases in dense layers and layernorm.
        tie_embeddings: The output layer is the (target's) token embedding transposed.
        share_embeddings: Source and target have one token embedding; encoder-decoder only.
        head: language_model | masked_lm (a transformation before the vocabulary) |
            classification (one vector of scores a row).
        num_labels: Scores of a classifier; 0 for other heads.
        pooling: first | mean | last: what a classifier reads of a row's valid tokens.
        dtype: What is computed in, float32 | bfloat16; parameters are always float32.
        remat: What the backward pass recomputes: none | dots (all but matrix products) | full.
        scan_layers: One compiled layer run `num_layers` times; parameters get a layer axis.
        attention: auto | plain | cudnn.

    Raises:
        UserError: a value is out of range or two values do not fit each other.
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
    mlp_dim: int
    dropout_rate: float
    norm: str
    norm_position: str
    norm_epsilon: float
    embedding_norm: bool
    positions: str
    rotary_base: float
    num_token_types: int
    activation: str
    use_bias: bool
    tie_embeddings: bool
    share_embeddings: bool
    head: str = "language_model"
    num_labels: int = 0
    pooling: str = "first"
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "auto"

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.embed_dim // self.num_heads

    @property
    def init_stddev(self) -> float:
        """Standard deviation of new kernels and embeddings.

        Source: Nguyen and Salazar 2019, Transformers without Tears, section 2.2
        (SmallInit). At GPT-2's width it is GPT-2's constant (0.023 and 0.02 at 768);
        a narrow model learns much faster than from that constant.
        """
        return math.sqrt(2 / (5 * self.embed_dim))

    @property
    def has_source(self) -> bool:
        """Whether there are two stacks: an encoder for the source, a decoder for the target."""
        return self.architecture == "encoder_decoder"

    @property
    def output_vocab_size(self) -> int:
        """Words that the model gives a score to."""
        return self.target_vocab_size if self.has_source else self.vocab_size

    @property
    def encoder(self) -> StackConfig:
        """The stack that reads the source, or the only one of an encoder."""
        return self._stack(causal=False, cross_attention=False)

    @property
    def decoder(self) -> StackConfig:
        """The stack that writes the target, or the only one of a decoder."""
        return self._stack(causal=True, cross_attention=self.has_source)

    def _stack(self, *, causal: bool, cross_attention: bool) -> StackConfig:
        num_layers = self.num_decoder_layers if cross_attention else self.num_layers
        num_branches = (3 if cross_attention else 2) * num_layers
        length_key = "max_target_length" if cross_attention else "max_length"
        return StackConfig(
            num_layers=num_layers,
            max_length=getattr(self, length_key),
            length_key=_NOT_UNDER_MODEL[length_key],
            causal=causal,
            cross_attention=cross_attention,
            first_layer=self.num_layers if cross_attention else 0,
            branch_init_stddev=self.init_stddev / math.sqrt(num_branches),
        )

    def __post_init__(self):
        _check_choices(self)
        _check_numbers(self)
        _check_parts(self)
        _check_cudnn(self)


def _check_choices(config: TransformerConfig) -> None:
    for key, choices in CHOICES.items():
        value = getattr(config, key)
        if value not in choices:
            raise UserError(f"model.{key} is {value!r}; choose one of: {', '.join(choices)}.")


def _check_numbers(config: TransformerConfig) -> None:
    for key in _COUNTS:
        value = getattr(config, key)
        if not isinstance(value, int) or value < 1:
            name = _NOT_UNDER_MODEL.get(key, f"model.{key}")
            raise UserError(f"{name} is {value!r}; set it to an integer of at least 1.")
    if config.embed_dim % config.num_heads:
        raise UserError(
            f"model.embed_dim = {config.embed_dim} is not divisible by model.num_heads = "
            f"{config.num_heads}; set one so that every head is equally wide."
        )
    if config.num_heads % config.num_kv_heads:
        raise UserError(
            f"model.num_heads = {config.num_heads} is not divisible by model.num_kv_heads = "
            f"{config.num_kv_heads}; set model.num_kv_heads to a divisor of it."
        )
    if not 0 <= config.dropout_rate < 1:
        raise UserError(
            f"model.dropout_rate is {config.dropout_rate}; set it to at least 0 and below 1."
        )
    if config.positions == "rotary" and config.head_dim % 2:
        raise UserError(
            f"model.positions = rotary turns pairs of numbers, but model.embed_dim / "
            f"model.num_heads = {config.head_dim} is odd; make the heads even."
        )
    if config.positions == "sinusoidal" and config.embed_dim % 2:
        raise UserError(
            f"model.positions = sinusoidal pairs sines with cosines, but model.embed_dim = "
            f"{config.embed_dim} is odd; make it even."
        )
    for key in ("rotary_base", "norm_epsilon"):
        if not getattr(config, key) > 0:
            raise UserError(f"model.{key} is {getattr(config, key)}; set it above 0.")
    if not isinstance(config.num_token_types, int) or config.num_token_types < 0:
        raise UserError(
            f"model.num_token_types is {config.num_token_types!r}; set it to an integer of at least 0."
        )


def _check_parts(config: TransformerConfig) -> None:
    """Embeddings and heads that the architecture cannot have."""
    if config.head not in HEADS or config.pooling not in POOLINGS:
        raise ValueError(f"unknown head {config.head!r} or pooling {config.pooling!r}")
    if (config.num_labels > 0) != (config.head == "classification"):
        raise ValueError(f"num_labels = {config.num_labels} with the head {config.head}")
    if config.architecture not in HEADS[config.head]:
        fitting = " or ".join(HEADS[config.head])
        raise UserError(
            f"model.architecture = {config.architecture} cannot have the head {config.head}; choose a "
            f"model.preset whose architecture is {fitting}."
        )
    if config.has_source and config.num_token_types:
        raise UserError(
            f"model.num_token_types = {config.num_token_types}, but an encoder_decoder has no token "
            "types; set it to 0."
        )
    if config.has_source and config.share_embeddings and config.vocab_size != config.target_vocab_size:
        raise UserError(
            f"model.share_embeddings needs one vocabulary, but the source has {config.vocab_size} "
            f"tokens and the target {config.target_vocab_size}; set it to False or use one tokenizer."
        )


def cudnn_obstacle(config: TransformerConfig) -> str | None:
    """Why cuDNN attention cannot run this model, in words; None: it can, given a GPU."""
    if config.dtype != "bfloat16":
        return f"it computes in bfloat16, and model.dtype is {config.dtype}"
    if config.dropout_rate > 0:
        return f"it has no dropout, and model.dropout_rate is {config.dropout_rate}"
    if config.positions == "relative":
        return "the bias of model.positions = relative is not made for it"
    if config.head_dim % 8 or config.head_dim > 128:
        return (
            "it wants heads of at most 128 and a multiple of 8, and model.embed_dim / "
            f"model.num_heads is {config.head_dim}"
        )
    return None


def _check_cudnn(config: TransformerConfig) -> None:
    obstacle = cudnn_obstacle(config)
    if config.attention == "cudnn" and obstacle:
        raise UserError(
            f"model.attention = cudnn is impossible here: {obstacle}; "
            "change that or set model.attention = plain."
        )
