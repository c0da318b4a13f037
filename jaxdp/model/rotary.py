"""Rotary position embeddings (RoPE): frequencies, their scaling to longer contexts (linear, Llama 3, YaRN), and rotation."""

import math

import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig
from jaxdp.model.positions import frequencies, position_angles

RotaryTables = tuple[jax.Array, jax.Array]
"""Cosines, and sines with the first half negated, each `[batch or 1, length, 1, rotary_dim] float32`."""


def rotary_tables(positions: jax.Array, config: TransformerConfig, *, windowed: bool = False) -> RotaryTables:
    """Computes the cosines and sines for `apply_rotary`, shared by all heads of all layers of one kind.

    Args:
        positions: Positions, `[batch or 1, length] int32`.
        config: Model configuration.
        windowed: Whether the tables are for layers with an attention window, which may have a base of their own.
    """
    num_pairs = config.rotary_dim // 2
    if windowed and config.rotary_local_base:
        rates, factor = frequencies(num_pairs, config.rotary_local_base), 1.0
    else:
        rates, factor = _scaled(frequencies(num_pairs, config.rotary_base), config)
    angles = position_angles(positions, rates)[:, :, None, :]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if factor != 1:
        cosine, sine = factor * cosine, factor * sine
    return jnp.concatenate([cosine, cosine], axis=-1), jnp.concatenate([-sine, sine], axis=-1)


def _scaled(rates: jax.Array, config: TransformerConfig) -> tuple[jax.Array, float]:
    """Lowers frequencies for contexts beyond the length of pre-training.

    With `rope_factor` F a frequency f becomes `f / F` ("linear"). "llama3" and "yarn" keep high frequencies and
    interpolate between both in the middle. "llama3" goes linearly by the number of rotations over the original length, and "yarn"
    linearly by the index of the pair, and multiplies cosines and sines by a factor of its own.

    Source: Chen et al. 2023 (Position Interpolation), section 3 (linear); Grattafiori et al. 2024, released code
    (llama3); Peng et al. 2023 (YaRN), section 3.2 and 3.4, and its released code.

    Returns:
        Frequencies `[num_pairs] float32`, and the factor of cosines and sines.
    """
    if config.rope_scaling == "none":
        return rates, 1.0
    if config.rope_scaling == "linear":
        return rates / config.rope_factor, 1.0
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    if config.rope_scaling == "llama3":
        rotations = config.rope_original_length * rates / (2 * math.pi)
        kept = jnp.clip((rotations - low) / (high - low), 0, 1)
        return rates * (kept + (1 - kept) / config.rope_factor), 1.0
    first, last = math.floor(_pair_of(high, config)), math.ceil(_pair_of(low, config))
    first, last = max(first, 0), min(last, config.rotary_dim - 1)
    interpolated = jnp.clip((jnp.arange(len(rates)) - first) / max(last - first, 1e-3), 0, 1)
    factor = config.rope_attention_factor or 0.1 * math.log(config.rope_factor) + 1
    return rates * (1 - interpolated + interpolated / config.rope_factor), factor


def _pair_of(rotations: float, config: TransformerConfig) -> float:
    """Returns the index of the pair of features that rotates this number of times over the original length."""
    length = config.rope_original_length / (2 * math.pi * rotations)
    return config.rotary_dim * math.log(length) / (2 * math.log(config.rotary_base))


def apply_rotary(heads: jax.Array, tables: RotaryTables) -> jax.Array:
    """Applies rotary position embeddings: rotates each pair of features by its angle, in float32.

    Source: Su et al. 2021 (RoFormer), section 3.4. Differs: pair i consists of features
    i and i + rotary_dim / 2, as in Llama checkpoints on Hugging Face; the paper pairs
    adjacent features.

    Args:
        heads: Queries or keys, `[batch, length, heads, head_dim]`.
        tables: Result of `rotary_tables`; features beyond their width stay as they are.

    Returns:
        Rotated queries or keys of the same shape and dtype.
    """
    cosine, sine = tables
    rotary_dim = cosine.shape[-1]
    values = heads[..., :rotary_dim].astype(jnp.float32)
    swapped = jnp.roll(values, rotary_dim // 2, axis=-1)
    rotated = (values * cosine + swapped * sine).astype(heads.dtype)
    if rotary_dim == heads.shape[-1]:
        return rotated
    return jnp.concatenate([rotated, heads[..., rotary_dim:]], axis=-1)
