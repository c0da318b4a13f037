"""Dropout with one PRNG key per sequence: masks do not depend on the device or the batch."""

import jax
import jax.numpy as jnp

SITES = (
    "embedding",
    "attention",
    "attention_residual",
    "mlp_residual",
    "cross_attention",
    "cross_attention_residual",
    "classifier",
)
"""Dropout sites of a layer; the embedding is a site of the first layer of its stack."""

_GROUP = 4  # sites
_GROUP_NUMBERS = 2**24  # numbers reserved for each group of sites: layers times sites

_NUM_LEVELS = 2**16  # values of the random number for one element


def dropout(
    values: jax.Array, row_keys: jax.Array | None, *, rate: float, layer: jax.Array | int, site: str
) -> jax.Array:
    """Zeroes each element with probability `rate` and scales up the others.

    The mask is a function of the sequence's key, the layer and the site only. A sequence
    therefore has the same mask in any batch, on any device, and in scanned, unrolled or
    rematerialized layers.

    Source: Srivastava et al. 2014, section 4, in the inverted form. Differs: each random
    32-bit word serves two elements, which halves the cost. The rate is therefore rounded
    to a multiple of 1 / 65536, and the scale is that of the rounded rate.

    Args:
        values: Activations, `[batch, ...]`.
        row_keys: Typed PRNG key of each sequence, `[batch]`; None: no dropout.
        rate: Dropout rate, at least 0 and below 1; 0: no dropout.
        layer: Index of the layer, counted over all stacks.
        site: Dropout site, one of `SITES`.

    Returns:
        Activations of the same shape and dtype.
    """
    if row_keys is None or rate == 0:
        return values
    index = _number(layer, site)
    threshold = max(1, round((1 - rate) * _NUM_LEVELS))
    last = values.shape[-1]

    def keep(row_key):
        shape = (*values.shape[1:-1], (last + 1) // 2)
        bits = jax.random.bits(jax.random.fold_in(row_key, index), shape, jnp.uint32)
        halves = jnp.concatenate([bits & (_NUM_LEVELS - 1), bits >> 16], axis=-1)
        return halves[..., :last] < threshold

    scaled = values * jnp.asarray(_NUM_LEVELS / threshold, values.dtype)
    return jnp.where(jax.vmap(keep)(row_keys), scaled, jnp.zeros_like(values))


def _number(layer: jax.Array | int, site: str) -> jax.Array | int:
    """Returns the number folded into a sequence's key, different for every layer and site.

    Each group of four sites has its own range of numbers, so adding a group does not
    change the masks of existing sites.
    """
    group, index = divmod(SITES.index(site), _GROUP)
    return group * _GROUP_NUMBERS + layer * _GROUP + index
