"""What was said before the first new token: the source and the prompt go through the model once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree


class Prompt(NamedTuple):
    """Where decoding begins.

    Attributes:
        logits: [rows, vocab_size] float32, of the first new token.
        cache: keys and values of the prompt, and of the source.
        sizes: [rows] int32, tokens of each prompt without its padding.
    """

    logits: jax.Array
    cache: PyTree
    sizes: jax.Array


def read_prompt(
    apply: Callable, params: PyTree, batch: dict[str, jax.Array], cache: PyTree, slots: int
) -> Prompt:
    """Runs the encoder where there is a source, and the prompt through the decoder.

    Args:
        apply: (params, tokens, method=, **options) -> that method of the model.
        params: of the model.
        batch: tokens and prompt_mask [rows, prompt_length], padded on the left; of an
            encoder-decoder source_tokens and source_mask [rows, source_length] too.
        cache: an empty cache of `slots` slots.
        slots: room of the cache, at least prompt_length.
    """
    prompt_mask = batch["prompt_mask"]
    rows, prompt_length = prompt_mask.shape
    source = {}
    if "source_tokens" in batch:
        mask = batch["source_mask"]
        encoded = apply(params, batch["source_tokens"], method="encode", attention_mask=mask)
        source = {"source": encoded, "source_mask": mask}
    logits, cache = apply(
        params,
        batch["tokens"],
        method="decode",
        positions=jnp.maximum(jnp.cumsum(prompt_mask, axis=1, dtype=jnp.int32) - 1, 0),
        attention_mask=jnp.pad(prompt_mask, ((0, 0), (0, slots - prompt_length))),
        cache=cache,
        predict_at=jnp.full((rows, 1), prompt_length - 1, jnp.int32),
        **source,
    )
    return Prompt(logits[:, 0], cache, jnp.sum(prompt_mask, axis=1, dtype=jnp.int32))
