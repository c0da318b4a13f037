"""Prefill: runs the encoder (if any) and the prompt once, in chunks of tokens, and fills the KV cache."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree

CHUNK = 128
"""Maximum number of prompt tokens that attend at once: attention scores are `[batch, heads, CHUNK, slots]`, not those of the
whole prompt. On a CPU, whose caches hold them, 1,024 tokens take half of the time or less; each chunk reads the parameters
once, as a new token does."""


class Prefill(NamedTuple):
    """Result of prefill, from which decoding continues.

    Attributes:
        logits: Logits of the first new token, `[batch, vocab_size] float32`.
        cache: Cache with the keys and values of the prompt and of the source.
        prompt_lengths: Number of tokens of each prompt without padding, `[batch] int32`.
    """

    logits: jax.Array
    cache: PyTree
    prompt_lengths: jax.Array


def prefill(
    apply: Callable, params: PyTree, batch: dict[str, jax.Array], cache: PyTree, slots: int, *, chunk: int = CHUNK
) -> Prefill:
    """Runs the encoder, if the batch has a source, and the decoder on the prompt.

    A prompt longer than a chunk is a loop over chunks; each attends to the cache of the earlier ones. The first
    chunk has the rest of the division, so that all others have the same shape.

    Args:
        apply: Function (params, tokens, method=, **options) that calls a method of the model.
        params: Model parameters.
        batch: `tokens` and `prompt_mask`, `[batch, prompt_length]` with left padding; for an
            encoder-decoder also `source_tokens` and `source_mask`, `[batch, source_length]`.
        cache: Empty cache with `slots` slots.
        slots: Capacity of the cache in tokens, at least prompt_length.
        chunk: Maximum number of tokens in one call of the decoder.
    """
    prompt_mask = batch["prompt_mask"]
    prompt_length = prompt_mask.shape[1]
    positions = jnp.maximum(jnp.cumsum(prompt_mask, axis=1, dtype=jnp.int32) - 1, 0)
    attention_mask = jnp.pad(prompt_mask, ((0, 0), (0, slots - prompt_length)))

    def run(cache: PyTree, start: jax.Array | int, size: int, **source) -> tuple[jax.Array, PyTree]:
        """Appends `size` tokens of the prompt from `start` on; returns the logits after the last of them, and the cache."""
        tokens, places = (
            jax.lax.dynamic_slice_in_dim(array, start, size, axis=1) for array in (batch["tokens"], positions)
        )
        logits, cache = apply(
            params,
            tokens,
            method="decode",
            positions=places,
            attention_mask=attention_mask,
            cache=cache,
            predict_at=jnp.full((tokens.shape[0], 1), size - 1, jnp.int32),
            **source,
        )
        return logits[:, 0], cache

    num_more = (prompt_length - 1) // chunk
    first = prompt_length - num_more * chunk
    logits, cache = run(cache, 0, first, **_source(apply, params, batch))
    if num_more:
        logits, cache = jax.lax.fori_loop(
            0, num_more, lambda index, last: run(last[1], first + index * chunk, chunk), (logits, cache)
        )
    return Prefill(logits, cache, jnp.sum(prompt_mask, axis=1, dtype=jnp.int32))


def _source(apply: Callable, params: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the encoded source and its mask as options of the decoder; {} without a source."""
    if "source_tokens" not in batch:
        return {}
    mask = batch["source_mask"]
    return {
        "encoder_output": apply(params, batch["source_tokens"], method="encode", attention_mask=mask),
        "source_mask": mask,
    }
