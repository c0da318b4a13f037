"""The shape of one Transformer: every number and choice that the model depends on."""

import dataclasses
import math

from jaxdp.errors import UserError

CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "positions": ("learned", "sinusoidal", "rotary"),
    "activation": ("gelu", "gelu_tanh", "relu", "relu2", "swiglu"),
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "dots", "full"),
    "attention": ("auto", "plain", "cudnn"),
}
"""The values that each choice of the configuration can take."""

_COUNTS = (
    "vocab_size", "max_length", "num_layers", "num_heads", "num_kv_heads", "embed_dim", "mlp_dim",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A complete description of a Transformer; equal configs make equal models.

    Attributes:
        vocab_size: Rows of the token embedding.
        max_length: Longest row in tokens: the size of the learned position table.
        num_layers: Blocks.
        num_heads: Query heads of one attention.
        num_kv_heads: Key and value heads, a divisor of `num_heads`; fewer is
            grouped-query attention (Source: Ainslie et al. 2023).
        embed_dim: Width of the residual stream.
        mlp_dim: Width inside the MLP.
        dropout_rate: On embeddings, attention probabilities and residual branches.
        norm: layernorm | rmsnorm.
        norm_position: pre (before each branch, and at the end) | post (after each addition).
        positions: learned | sinusoidal | rotary.
        rotary_base: Wavelength base of rotary positions; unused by the others.
        activation: gelu | gelu_tanh | relu | relu2 | swiglu.
        use_bias: Biases in dense layers and layernorm.
        tie_embeddings: The output layer is the token embedding transposed.
        dtype: What is computed in, float32 | bfloat16; parameters are always float32.
        remat: What the backward pass recomputes: none | dots (all but matrix products) | full.
        scan_layers: One compiled layer run `num_layers` times; parameters get a layer axis.
        attention: auto | plain | cudnn.
        causal: Whether a token sees only itself and earlier tokens.

    Raises:
        UserError: a value is out of range or two values do not fit each other.
    """

    vocab_size: int
    max_length: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    embed_dim: int
    mlp_dim: int
    dropout_rate: float
    norm: str
    norm_position: str
    positions: str
    rotary_base: float
    activation: str
    use_bias: bool
    tie_embeddings: bool
    dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "auto"
    causal: bool = True

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
    def branch_init_stddev(self) -> float:
        """The same for the kernels that join the residual stream.

        Source: Radford et al. 2019, section 2.3.
        """
        return self.init_stddev / math.sqrt(2 * self.num_layers)

    def __post_init__(self):
        _check_choices(self)
        _check_numbers(self)
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
            name = "data.length" if key == "max_length" else f"model.{key}"
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
    if not config.rotary_base > 0:
        raise UserError(f"model.rotary_base is {config.rotary_base}; set it above 0.")


def cudnn_obstacle(config: TransformerConfig) -> str | None:
    """Why cuDNN attention cannot run this model, in words; None: it can, given a GPU."""
    if config.dtype != "bfloat16":
        return f"it computes in bfloat16, and model.dtype is {config.dtype}"
    if config.dropout_rate > 0:
        return f"it has no dropout, and model.dropout_rate is {config.dropout_rate}"
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
