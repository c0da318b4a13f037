"""Rotary position embeddings (RoPE): frequencies, their scaling to longer contexts (linear, Llama 3, YaRN), and rotation."""

import math

import jax
import jax.numpy as jnp
import numpy as np

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
    rates, factor = _rates(config, windowed)
    angles = position_angles(positions, rates)[:, :, None, :]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if factor != 1:
        cosine, sine = factor * cosine, factor * sine
    return jnp.concatenate([cosine, cosine], axis=-1), jnp.concatenate([-sine, sine], axis=-1)


def _rates(config: TransformerConfig, windowed: bool) -> tuple[jax.Array, float]:
    """Returns the frequencies of pairs of features, `[rotary_dim / 2] float32`, and the factor of cosines and sines."""
    if windowed and config.rotary_local_base:
        return jnp.asarray(1 / _wavelengths(config.rotary_dim, config.rotary_local_base)), 1.0
    if config.rope_scaling == "none":
        return frequencies(config.rotary_dim // 2, config.rotary_base), 1.0
    rates, factor = SCALINGS[config.rope_scaling](_wavelengths(config.rotary_dim, config.rotary_base), config)
    return jnp.asarray(rates), factor


def _wavelengths(rotary_dim: int, base: float) -> np.ndarray:
    """Returns the wavelength of each pair of features over 2 pi, `[rotary_dim / 2] float32`.

    Its reciprocal is rounded once more, as on Hugging Face. At position 8,192 the last bit of a frequency is a
    thousandth of a radian; the frequencies of an imported model must be those that it was trained with.
    """
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    return (base ** exponents.astype(np.float64)).astype(np.float32)


def _linear(wavelengths: np.ndarray, config: TransformerConfig) -> tuple[np.ndarray, float]:
    """Divides all frequencies by `rope_factor`.

    Source: Chen et al. 2023 (Position Interpolation), section 3.
    """
    return 1 / wavelengths / np.float32(config.rope_factor), 1.0


def _llama3(wavelengths: np.ndarray, config: TransformerConfig) -> tuple[np.ndarray, float]:
    """Divides low frequencies, keeps high ones, and interpolates by the number of rotations over the original length.

    Source: Grattafiori et al. 2024 (Llama 3), released code of Llama 3.1.
    """
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    rates = 1 / wavelengths
    rotations = np.float32(config.rope_original_length) / (np.float32(2 * math.pi) / rates)
    kept = np.clip((rotations - np.float32(low)) / np.float32(high - low), 0, 1)
    return (1 - kept) * rates / np.float32(config.rope_factor) + kept * rates, 1.0


def _yarn(wavelengths: np.ndarray, config: TransformerConfig) -> tuple[np.ndarray, float]:
    """Divides low frequencies, keeps high ones, interpolates by the index of the pair, and scales cosines and sines.

    Source: Peng et al. 2023 (YaRN), sections 3.2 and 3.4, and its released code.
    """
    first = max(math.floor(_pair_of(config.rope_high_freq_factor, config)), 0)
    last = min(math.ceil(_pair_of(config.rope_low_freq_factor, config)), config.rotary_dim - 1)
    ramp = (np.arange(len(wavelengths), dtype=np.float32) - first) / np.float32(max(last - first, 1e-3))
    kept = 1 - np.clip(ramp, 0, 1)
    divided = 1 / (np.float32(config.rope_factor) * wavelengths)
    factor = config.rope_attention_factor or 0.1 * math.log(config.rope_factor) + 1
    return divided * (1 - kept) + 1 / wavelengths * kept, factor


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


SCALINGS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
"""Value of `model.rope_scaling` -> function of wavelengths that returns frequencies and the factor of cosines and sines."""
