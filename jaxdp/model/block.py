"""One layer: residual branches around attention and the MLP, and how layers are stacked."""

import flax.linen as nn
import flax.struct
import jax

from jaxdp.model.attention import Attention
from jaxdp.model.cache import KVCache
from jaxdp.model.config import StackConfig, TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.masks import AttentionMask
from jaxdp.model.mlp import MLP
from jaxdp.model.norm import Norm

Carry = tuple[jax.Array, KVCache | None]


@flax.struct.dataclass
class LayerInputs:
    """What every layer of a stack is given, the same to each.

    Attributes:
        mask: Which tokens of its own row a token may attend to.
        rotary: Tables of rotary positions, or None.
        bias: Of relative positions, `[batch or 1, num_heads, length, key_length] float32`, or None.
        row_keys: `[batch]` typed PRNG keys of dropout, or None.
        source: `[batch, source_length, embed_dim]`, for cross-attention; None: there is
            none, or the cache holds its keys and values.
        source_mask: Which tokens of the source a token may attend to.
    """

    mask: AttentionMask
    rotary: tuple[jax.Array, jax.Array] | None = None
    bias: jax.Array | None = None
    row_keys: jax.Array | None = None
    source: jax.Array | None = None
    source_mask: AttentionMask | None = None


class Block(nn.Module):
    """Attention, attention to a source where there is one, then the MLP; each a residual branch.

    Source: Vaswani et al. 2017, section 3.1 (post); Radford et al. 2019,
    section 2.3 (pre).
    """

    config: TransformerConfig
    stack: StackConfig

    def setup(self):
        stddev = self.stack.branch_init_stddev
        self.attention_norm = make_norm(self.config)
        self.attention = Attention(self.config, stddev, "attention")
        if self.stack.cross_attention:
            self.cross_attention_norm = make_norm(self.config)
            self.cross_attention = Attention(self.config, stddev, "cross_attention")
        self.mlp_norm = make_norm(self.config)
        self.mlp = MLP(self.config, stddev)

    def __call__(
        self, carry: Carry, layer: jax.Array | int, inputs: LayerInputs
    ) -> tuple[Carry, None]:
        """Run one layer.

        Args:
            carry: `(hidden, cache)`: `[batch, length, embed_dim]`, and the cache or None.
            layer: Index of the layer in its stack, `int32` scalar.
            inputs: What all layers share.

        Returns:
            The new carry, and nothing beside it, as `flax.linen.scan` wants.
        """
        hidden, cache = carry
        pre = self.config.norm_position == "pre"
        layers = {"layer": layer, "dropout_layer": layer + self.stack.first_layer}

        def enter(norm):
            return norm(hidden) if pre else hidden

        def add(norm, branch, site):
            drop = dropout(
                branch,
                inputs.row_keys,
                rate=self.config.dropout_rate,
                layer=layers["dropout_layer"],
                site=site,
            )
            return hidden + drop if pre else norm(hidden + drop)

        queries = enter(self.attention_norm)
        branch, cache = self.attention(
            queries,
            queries,
            mask=inputs.mask,
            rotary=inputs.rotary,
            bias=inputs.bias,
            row_keys=inputs.row_keys,
            cache=cache,
            **layers,
        )
        hidden = add(self.attention_norm, branch, "attention_residual")
        if self.stack.cross_attention:
            branch, source_cache = self.cross_attention(
                enter(self.cross_attention_norm),
                inputs.source,
                mask=inputs.source_mask,
                row_keys=inputs.row_keys,
                cache=None if cache is None else cache.source,
                **layers,
            )
            cache = None if cache is None else cache.replace(source=source_cache)
            hidden = add(self.cross_attention_norm, branch, "cross_attention_residual")
        hidden = add(self.mlp_norm, self.mlp(enter(self.mlp_norm)), "mlp_residual")
        return (hidden, cache), None


def make_norm(config: TransformerConfig) -> Norm:
    """A new norm of this model."""
    return Norm(config.norm, config.norm_epsilon, config.use_bias, config.dtype)


REMAT_POLICIES = {
    # The scores are products over batch and heads: they are recomputed too.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def block_class(config: TransformerConfig) -> type[Block]:
    """Block, its backward pass recomputing what `config.remat` says."""
    if config.remat == "none":
        return Block
    # Inside a scan, common subexpressions cannot undo the recomputation.
    return nn.remat(
        Block, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers
    )


def scanned_class(config: TransformerConfig, stack: StackConfig) -> type[Block]:
    """All layers as one module: parameters carry the layer as axis 0."""
    return nn.scan(
        block_class(config),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=stack.num_layers,
    )
