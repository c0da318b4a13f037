"""From the logits of the next token to a token: temperature, top-k, top-p."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: divides the logits; 0: the likeliest token, always.
        top_k: draw among the k likeliest; 0: off.
        top_p: draw among the likeliest that together reach this probability
            (nucleus sampling, Holtzman et al. 2020, section 3.1); 1: off.
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
    """Raises UserError for an option that is no number of this kind; NumPy's are numbers too."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, kind):
            expected = "whole number" if kind is numbers.Integral else "number"
            raise UserError(f"{name} must be a {expected}, found {value!r} ({type(value).__name__}).")


MAX_SEED = 2**32 - 1


def check_seed(seed: int, num_samples: int) -> None:
    """Refuses seeds of which one of seed .. seed + num_samples - 1 is no uint32, and fewer samples than one."""
    if num_samples < 1:
        raise UserError(f"--num_samples={num_samples} must be at least 1.")
    if not 0 <= seed <= MAX_SEED + 1 - num_samples:
        raise UserError(
            f"--seed={seed} is out of range: {num_samples} samples need one from 0 to {MAX_SEED + 1 - num_samples}."
        )


def filtered_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """`[rows, vocab_size] float32` with what must not be drawn at -inf; temperature first."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampling.top_p < 1:
        descending = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(descending, axis=-1)
        # Keep a token while those before it have not reached top_p: the first always stays.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = jnp.where(before < sampling.top_p, descending, jnp.inf)
        logits = jnp.where(logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits)
    return logits


def draw(logits: jax.Array, row_keys: jax.Array, sampling: Sampling) -> jax.Array:
    """One token per row.

    Args:
        logits: [rows, vocab_size] float32.
        row_keys: [rows] typed keys; a row's draw depends on its own key alone.
        sampling: how.

    Returns:
        [rows] int32.
    """
    if sampling.temperature == 0:
        # The first of equals, as argmax, which is six times slower on XLA:CPU.
        return jax.lax.top_k(logits, 1)[1][:, 0]
    drawn = jax.vmap(jax.random.categorical)(row_keys, filtered_logits(logits, sampling))
    return drawn.astype(jnp.int32)
