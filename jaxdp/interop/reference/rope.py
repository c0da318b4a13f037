"""Rotary positions of the reference forward passes: frequencies by `rope_parameters` or `rope_scaling`, and rotation."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def parameters_of(config: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """Returns the parameters in the form of transformers 5, from a config.json of any version.

    Args:
        config: Content of config.json.
        theta: Base of a config.json without one.
    """
    found = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    found.setdefault("rope_type", found.get("type", "default"))
    found.setdefault("rope_theta", config.get("rope_theta") or theta)
    found.setdefault("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)
    found.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return found


def rotations(parameters: Mapping[str, Any], head_dim: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes cosines and sines `[length, rotary_dim]` of positions from 0.

    Args:
        parameters: Result of `parameters_of`.
        head_dim: Number of features per head.
        length: Number of positions.
    """
    dim = int(head_dim * parameters["partial_rotary_factor"])
    base, kind = parameters["rope_theta"], parameters["rope_type"]
    frequencies, factor = base ** (-np.arange(0, dim, 2) / dim), 1.0
    if kind == "linear":
        frequencies = frequencies / parameters["factor"]
    elif kind == "llama3":
        frequencies = np.array([_llama3(frequency, parameters) for frequency in frequencies])
    elif kind == "yarn":
        frequencies, factor = _yarn(frequencies, parameters, dim)
    elif kind != "default":
        raise ValueError(kind)
    angles = np.outer(np.arange(length), np.concatenate([frequencies, frequencies]))
    return np.cos(angles) * factor, np.sin(angles) * factor


def _llama3(frequency: float, parameters: Mapping[str, Any]) -> float:
    wavelength = 2 * math.pi / frequency
    original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / factor
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def _yarn(frequencies: np.ndarray, parameters: Mapping[str, Any], dim: int) -> tuple[np.ndarray, float]:
    original, factor, base = (parameters[key] for key in ("original_max_position_embeddings", "factor", "rope_theta"))

    def pair(num_rotations):
        return dim * math.log(original / (num_rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair(parameters.get("beta_fast") or 32)), 0)
    high = min(math.ceil(pair(parameters.get("beta_slow") or 1)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low or 0.001), 0, 1)
    given = parameters.get("attention_factor")
    scale = given if given is not None else 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return frequencies / factor * ramp + frequencies * (1 - ramp), scale


def rotate(heads: np.ndarray, tables: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Rotates the first features of queries or keys `[batch, heads, length, head_dim]`; the others stay."""
    cosine, sine = tables
    turned, kept = heads[..., : cosine.shape[-1]], heads[..., cosine.shape[-1] :]
    half = turned.shape[-1] // 2
    other = np.concatenate([-turned[..., half:], turned[..., :half]], axis=-1)
    return np.concatenate([turned * cosine + other * sine, kept], axis=-1)
