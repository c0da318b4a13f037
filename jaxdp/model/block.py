"""One layer: residual branches around attention and the MLP, and how layers are stacked."""

import flax.linen as nn
import jax

from jaxdp.model.attention import Attention
from jaxdp.model.cache import KVCache
from jaxdp.model.config import TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.masks import AttentionMask
from jaxdp.model.mlp import MLP
from jaxdp.model.norm import Norm

Carry = tuple[jax.Array, KVCache | None]


class Block(nn.Module):
    """Attention, then the MLP, each on a residual branch with its norm.

    Source: Vaswani et al. 2017, section 3.1 (post); Radford et al. 2019,
    section 2.3 (pre).
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        self.attention_norm = Norm(config.norm, config.use_bias, config.dtype)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config.norm, config.use_bias, config.dtype)
        self.mlp = MLP(config)

    def __call__(
        self,
        carry: Carry,
        layer: jax.Array | int,
        mask: AttentionMask,
        rotary: tuple[jax.Array, jax.Array] | None,
        row_keys: jax.Array | None,
    ) -> tuple[Carry, None]:
        """Run one layer.

        Args:
            carry: `(hidden, cache)`: `[batch, length, embed_dim]`, and the cache or None.
            layer: Index of the layer, `int32` scalar.
            mask: Who may attend to whom.
            rotary: Tables of rotary positions, or None.
            row_keys: `[batch]` typed PRNG keys of dropout, or None.

        Returns:
            The new carry, and nothing beside it, as `flax.linen.scan` wants.
        """
        hidden, cache = carry
        pre = self.config.norm_position == "pre"

        def add(norm, branch, site):
            drop = dropout(branch, row_keys, rate=self.config.dropout_rate, layer=layer, site=site)
            return hidden + drop if pre else norm(hidden + drop)

        inputs = self.attention_norm(hidden) if pre else hidden
        branch, cache = self.attention(
            inputs, inputs, mask=mask, layer=layer, rotary=rotary, row_keys=row_keys, cache=cache
        )
        hidden = add(self.attention_norm, branch, "attention_residual")
        inputs = self.mlp_norm(hidden) if pre else hidden
        hidden = add(self.mlp_norm, self.mlp(inputs), "mlp_residual")
        return (hidden, cache), None


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


def scanned_class(config: TransformerConfig) -> type[Block]:
    """All layers as one module: parameters carry the layer as axis 0."""
    return nn.scan(
        block_class(config),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        length=config.num_layers,
    )
