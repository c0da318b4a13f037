"""Sampling of the next token: temperature, top-k and top-p (nucleus) sampling."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Attributes:
        temperature: Divisor of the logits; 0: greedy decoding.
        top_k: Number of most likely tokens to sample from; 0: off.
        top_p: Probability mass of the most likely tokens to sample from (nucleus sampling);
            1: off. Source: Holtzman et al. 2020, section 3.1.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        check_numbers(temperature=self.temperature, top_p=self.top_p)
        check_numbers(numbers.Integral, top_k=self.top_k)
        if not self.temperature >= 0:
            raise UserError(f"--temperature={self.temperature} must be 0 (greedy) or more.")
        if self.top_k < 0:
            raise UserError(f"--top_k={self.top_k} must be 0 (off) or more.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p={self.top_p} must be above 0 and at most 1 (off).")


def check_numbers(kind: type = numbers.Real, /, **values: Any) -> None:
    """Raises UserError for an option that is not a number of this kind; NumPy numbers are accepted."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, kind):
            expected = "whole number" if kind is numbers.Integral else "number"
            raise UserError(f"{name} must be a {expected}, found {value!r} ({type(value).__name__}).")


MAX_SEED = 2**32 - 1


def check_seed(seed: int, num_samples: int) -> None:
    """Raises UserError unless seed to seed + num_samples - 1 are all uint32, and num_samples is at least 1."""
    if num_samples < 1:
        raise UserError(f"--num_samples={num_samples} must be at least 1.")
    if not 0 <= seed <= MAX_SEED + 1 - num_samples:
        raise UserError(
            f"--seed={seed} is out of range: {num_samples} samples need one from 0 to {MAX_SEED + 1 - num_samples}."
        )


def filtered_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Divides logits `[batch, vocab_size] float32` by the temperature and sets excluded tokens to -inf."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampling.top_p < 1:
        descending = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(descending, axis=-1)
        # A token is kept if the more likely tokens have not reached top_p; the first one always is.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = jnp.where(before < sampling.top_p, descending, jnp.inf)
        logits = jnp.where(logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits)
    return logits


def sample_tokens(logits: jax.Array, row_keys: jax.Array, sampling: Sampling) -> jax.Array:
    """Samples one token per sequence.

    Args:
        logits: Logits of the next token, `[batch, vocab_size] float32`.
        row_keys: Typed PRNG key of each sequence, `[batch]`; a sample depends on its own key only.
        sampling: Sampling settings.

    Returns:
        Sampled tokens, `[batch] int32`.
    """
    if sampling.temperature == 0:
        # Equal to argmax, also for ties, which is six times slower on XLA:CPU.
        return jax.lax.top_k(logits, 1)[1][:, 0]
    tokens = jax.vmap(jax.random.categorical)(row_keys, filtered_logits(logits, sampling))
    return tokens.astype(jnp.int32)
