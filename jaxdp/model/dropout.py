"""Dropout whose mask belongs to the row, not to the device or the batch around it."""

import jax
import jax.numpy as jnp

SITES = (
    "embedding", "attention", "attention_residual", "mlp_residual",
    "cross_attention", "cross_attention_residual", "classifier",
)
"""Where one layer drops out; the embedding counts as a site of its stack's first layer."""

_GROUP = 4  # sites
_GROUP_NUMBERS = 2**24  # room for that many layers and sites

_NUM_LEVELS = 2**16  # values of the random number that decides about one value


def dropout(
    values: jax.Array, row_keys: jax.Array | None, *, rate: float, layer: jax.Array | int, site: str
) -> jax.Array:
    """Zero each value with probability `rate` and scale up the rest.

    The mask is a function of the row's key, the layer and the site alone, so a
    row drops the same values in any batch, on any device, scanned, unrolled or
    recomputed.

    Source: Srivastava et al. 2014, section 4, in the inverted form. Departs: 16
    random bits decide about a value, two values a draw, which halves the cost;
    the rate is exact to 1 / 65536, and the scale is that of the rate applied.

    Args:
        values: `[batch, ...]`.
        row_keys: `[batch]` typed PRNG keys; None: no dropout.
        rate: At least 0 and below 1; 0: no dropout.
        layer: Number of the layer in the count over all stacks.
        site: One of SITES.

    Returns:
        The same shape and dtype.
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
    """What is folded into a row's key, different for every layer and site.

    Sites come in groups of four, each with numbers of its own: a group added later
    leaves the masks of all earlier ones as they are.
    """
    group, place = divmod(SITES.index(site), _GROUP)
    return group * _GROUP_NUMBERS + layer * _GROUP + place
