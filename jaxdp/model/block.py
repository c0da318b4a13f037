"""Transformer block: attention, cross-attention and MLP with residual connections; rematerialization and scan over layers."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.model.attention import Attention
from jaxdp.model.attention_backends.plain import ATTENTION_OUTPUTS
from jaxdp.model.cache import KVCache
from jaxdp.model.config import StackConfig, TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.layers import MLP, make_norm
from jaxdp.model.masks import AttentionMask
from jaxdp.model.rotary import RotaryTables
from jaxdp.typing import PyTree

Carry = tuple[jax.Array, KVCache | None]


@flax.struct.dataclass
class LayerInputs:
    """Inputs shared by all layers of a stack.

    Attributes:
        mask: Mask of self-attention, without the window that layers may have.
        rotary: Tables of rotary positions, or None.
        window_rotary: Those of layers with a window if their base is another, or None.
        bias: Bias of relative positions, `[batch or 1, num_heads, length, key_length] float32`, or None.
        row_keys: Typed PRNG key of each sequence for dropout, `[batch]`, or None.
        encoder_output: Hidden states for cross-attention, `[batch, source_length, embed_dim]`;
            None: no cross-attention, or the cache already holds their keys and values.
        source_mask: Mask of cross-attention.
        embeddings: Inputs of the first layer, `[batch, length, embed_dim]`, if the model has residual scalars.
        value_embeddings: Value embeddings of the layers that have them, stacked,
            `[(num_layers + 1) // 2, batch, length, num_kv_heads * head_dim]`, or None.
    """

    mask: AttentionMask
    rotary: RotaryTables | None = None
    window_rotary: RotaryTables | None = None
    bias: jax.Array | None = None
    row_keys: jax.Array | None = None
    encoder_output: jax.Array | None = None
    source_mask: AttentionMask | None = None
    embeddings: jax.Array | None = None
    value_embeddings: jax.Array | None = None


def _of_layer(
    config: TransformerConfig, layer: jax.Array | int, inputs: LayerInputs
) -> tuple[AttentionMask, RotaryTables | None]:
    """Returns the mask of self-attention and the rotary tables of a layer, with a window or without."""
    window_mask = dataclasses.replace(inputs.mask, window=config.attention_window)
    window_rotary = inputs.rotary if inputs.window_rotary is None else inputs.window_rotary
    if isinstance(layer, int) or not config.has_mixed_windows:
        is_windowed = config.is_windowed(layer if isinstance(layer, int) else 0)
        return (window_mask, window_rotary) if is_windowed else (inputs.mask, inputs.rotary)
    # A scanned layer is compiled once for both.
    pattern = jnp.asarray(config.attention_window_pattern, bool)
    has_window = pattern[layer % len(pattern)]
    rotary = inputs.rotary
    if inputs.window_rotary is not None:
        rotary = jax.tree.map(lambda one, other: jnp.where(has_window, one, other), inputs.window_rotary, rotary)
    return dataclasses.replace(window_mask, has_window=has_window), rotary


class Block(nn.Module):
    """Transformer block: self-attention, cross-attention (decoder of an encoder-decoder) and MLP.

    Each is a branch of the residual stream. With `norm_position="pre"` a branch computes
    `x + dropout(branch(norm(x)))`; with "post" it computes `norm(x + dropout(branch(x)))`; with "both"
    `x + dropout(post_norm(branch(norm(x))))`.

    Source: Vaswani et al. 2017, section 3.1 (post); Radford et al. 2019, section 2.3 (pre); Gemma Team 2024 (Gemma 2),
    section 2 (both).
    """

    config: TransformerConfig
    stack: StackConfig
    has_attention_norm: bool = True

    def setup(self):
        stddev = self.stack.branch_init_stddev
        self.attention_norm = make_norm(self.config) if self.has_attention_norm else None
        self.attention = Attention(self.config, stddev, "attention")
        if self.stack.cross_attention:
            self.cross_attention_norm = make_norm(self.config)
            self.cross_attention = Attention(self.config, stddev, "cross_attention")
        self.mlp_norm = make_norm(self.config)
        self.mlp = MLP(self.config, stddev)
        self.attention_post_norm = self.cross_attention_post_norm = self.mlp_post_norm = None
        if self.config.norm_position == "both":
            self.attention_post_norm, self.mlp_post_norm = make_norm(self.config), make_norm(self.config)
            if self.stack.cross_attention:
                self.cross_attention_post_norm = make_norm(self.config)
        if self.config.residual_scalars:
            self.residual_scalar = self.param("residual_scalar", nn.initializers.ones, (), jnp.float32)
            self.embedding_scalar = self.param("embedding_scalar", nn.initializers.zeros, (), jnp.float32)

    def __call__(self, carry: Carry, layer: jax.Array | int, inputs: LayerInputs) -> tuple[Carry, None]:
        """Runs one layer.

        Args:
            carry: Hidden states `[batch, length, embed_dim]`, and the cache or None.
            layer: Index of the layer in its stack, `[] int32`.
            inputs: Inputs shared by all layers.

        Returns:
            The next carry, and None as the per-layer output that `flax.linen.scan` requires.
        """
        hidden, cache = carry
        if self.config.residual_scalars:
            assert inputs.embeddings is not None, "the stack gives them to such a model"
            # In float32: a factor near 1 that changes slowly would stay the same in bfloat16.
            mixture = self.residual_scalar * hidden.astype(jnp.float32) + self.embedding_scalar * inputs.embeddings
            hidden = mixture.astype(hidden.dtype)
        is_pre = self.config.has_input_norms
        mask, rotary = _of_layer(self.config, layer, inputs)
        layers: dict[str, Any] = {"layer": layer, "dropout_layer": layer + self.stack.first_layer}

        # pre:  hidden + dropout(branch(norm(hidden)))
        # both: hidden + dropout(post_norm(branch(norm(hidden))))
        # post: norm(hidden + dropout(branch(hidden)))
        def normalize_input(norm):
            return norm(hidden) if is_pre and norm is not None else hidden

        def add_residual(norm, post_norm, branch, site):
            if post_norm is not None:
                branch = post_norm(branch)
            update = dropout(
                branch,
                inputs.row_keys,
                rate=self.config.dropout_rate,
                layer=layers["dropout_layer"],
                site=site,
            )
            return hidden + update if is_pre else norm(hidden + update)

        queries = normalize_input(self.attention_norm)
        branch, cache = self.attention(
            queries,
            queries,
            mask=mask,
            rotary=rotary,
            bias=inputs.bias,
            value_embeddings=self._value_embeddings(layer, inputs),
            row_keys=inputs.row_keys,
            cache=cache,
            **layers,
        )
        hidden = add_residual(self.attention_norm, self.attention_post_norm, branch, "attention_residual")
        if self.stack.cross_attention:
            assert inputs.source_mask is not None, "a decoder gets the mask of its source"
            branch, cross_cache = self.cross_attention(
                normalize_input(self.cross_attention_norm),
                inputs.encoder_output,
                mask=inputs.source_mask,
                row_keys=inputs.row_keys,
                cache=None if cache is None else cache.cross_attention,
                **layers,
            )
            cache = None if cache is None else dataclasses.replace(cache, cross_attention=cross_cache)
            norms = self.cross_attention_norm, self.cross_attention_post_norm
            hidden = add_residual(*norms, branch, "cross_attention_residual")
        branch = self.mlp(normalize_input(self.mlp_norm))
        hidden = add_residual(self.mlp_norm, self.mlp_post_norm, branch, "mlp_residual")
        return (hidden, cache), None

    def _value_embeddings(self, layer: jax.Array | int, inputs: LayerInputs) -> jax.Array | None:
        """Returns the value embeddings of this layer: of every second one, the last one included."""
        if inputs.value_embeddings is None:
            return None
        has_them = (self.stack.num_layers - 1 - layer) % 2 == 0
        if isinstance(layer, int):
            return inputs.value_embeddings[layer // 2] if has_them else None
        return jnp.where(has_them, inputs.value_embeddings[layer // 2], 0)


Gather = Callable[[PyTree, str], PyTree]
"""gather(params, prefix) -> the parameters of a module, whole, from the shards of all devices; `prefix` is its path."""


def _save_all_but_gathered(primitive, *_, **params) -> bool:
    """Saves every value for the backward pass except gathered parameters, which it gathers again."""
    # A function with a gradient of its own, as that of `gather`, counts as one primitive.
    inner = getattr(params.get("call_jaxpr"), "eqns", ())
    return "all_gather" not in (primitive.name, *(equation.primitive.name for equation in inner))


_SAVE_DENSE = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_SAVE_ATTENTION = jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUTS)

REMAT_POLICIES = {
    "dots_attention": jax.checkpoint_policies.save_from_both_policies(_SAVE_DENSE, _SAVE_ATTENTION),
    # Attention scores are products with batch dimensions, so they are recomputed as well.
    "dots": _SAVE_DENSE,
    "attention": _SAVE_ATTENTION,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""Policy of `model.remat`: what a layer saves for its backward pass, from most to least; it recomputes the rest."""


def block_class(config: TransformerConfig, gather: Gather | None = None, prefix: str = "") -> type[Block]:
    """Returns `Block`, rematerialized in the backward pass according to `config.remat`.

    Args:
        config: Model configuration.
        gather: Gathers the parameters of a layer before it runs; None: they are whole.
        prefix: Path of the layers for `gather`.
    """
    block, policy = Block, REMAT_POLICIES.get(config.remat)
    if gather is not None:
        block = nn.map_variables(block, "params", trans_in_fn=lambda variables: _gathered(variables, gather, prefix))
        policy = policy or _save_all_but_gathered
    if policy is None:
        return block
    # Inside a scan, common subexpression elimination cannot undo the recomputation. Unrolled layers index the KV cache
    # with `layer`, argument 2, a Python integer.
    return nn.remat(
        block, policy=policy, prevent_cse=not config.scan_layers, static_argnums=() if config.scan_layers else (2,)
    )


def _gathered(variables: PyTree, gather: Gather, prefix: str) -> PyTree:
    """Gathers the collection of parameters that Flax passes on."""
    return {name: gather(collection, prefix) for name, collection in variables.items()}


def scanned_class(stack: StackConfig, block: type[Block]) -> type[Block]:
    """Returns all layers as one scanned module, whose parameters have the layer as axis 0."""
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=cast(Any, (0, nn.broadcast)),  # Flax has no annotation; type checkers infer int from the default
        length=stack.num_layers,
    )
