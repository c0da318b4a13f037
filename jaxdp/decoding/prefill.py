"""Prefill: runs the encoder (if any) and the prompt once and fills the KV cache."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree


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


def prefill(apply: Callable, params: PyTree, batch: dict[str, jax.Array], cache: PyTree, slots: int) -> Prefill:
    """Runs the encoder, if the batch has a source, and the decoder on the prompt.

    Args:
        apply: Function (params, tokens, method=, **options) that calls a method of the model.
        params: Model parameters.
        batch: `tokens` and `prompt_mask`, `[batch, prompt_length]` with left padding; for an
            encoder-decoder also `source_tokens` and `source_mask`, `[batch, source_length]`.
        cache: Empty cache with `slots` slots.
        slots: Capacity of the cache in tokens, at least prompt_length.
    """
    prompt_mask = batch["prompt_mask"]
    batch_size, prompt_length = prompt_mask.shape
    source = {}
    if "source_tokens" in batch:
        mask = batch["source_mask"]
        encoded = apply(params, batch["source_tokens"], method="encode", attention_mask=mask)
        source = {"encoder_output": encoded, "source_mask": mask}
    logits, cache = apply(
        params,
        batch["tokens"],
        method="decode",
        positions=jnp.maximum(jnp.cumsum(prompt_mask, axis=1, dtype=jnp.int32) - 1, 0),
        attention_mask=jnp.pad(prompt_mask, ((0, 0), (0, slots - prompt_length))),
        cache=cache,
        predict_at=jnp.full((batch_size, 1), prompt_length - 1, jnp.int32),
        **source,
    )
    return Prefill(logits[:, 0], cache, jnp.sum(prompt_mask, axis=1, dtype=jnp.int32))
