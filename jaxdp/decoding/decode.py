"""Sampling loop of one device: one new token per sequence and forward pass."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.decoding.eos import EosId, eos_ids_of, is_eos
from jaxdp.decoding.prefill import prefill
from jaxdp.decoding.sampling import Sampling, sample_tokens
from jaxdp.typing import PyTree


class _Loop(NamedTuple):
    """State of the sampling loop.

    Attributes:
        count: Number of tokens sampled so far, `[] int32`.
        logits: Logits of the next token, `[batch, vocab_size] float32`.
        cache: Keys and values of all previous tokens.
        tokens: Sampled tokens, padded after the end, `[batch, num_new] int32`.
        log_probabilities: Log-probability of the sampled tokens, `[batch] float32`.
        done: Whether the sequence has ended, `[batch] bool`.
    """

    count: jax.Array
    logits: jax.Array
    cache: PyTree
    tokens: jax.Array
    log_probabilities: jax.Array
    done: jax.Array


def make_decode(
    apply: Callable,
    make_cache: Callable[[int, int], PyTree],
    sampling: Sampling,
    *,
    num_new: int,
    eos_id: EosId,
) -> Callable[[PyTree, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Builds decode(params, batch) for `parallel.spmd`.

    `batch` contains, for the sequences of this device:
        tokens: Prompt tokens with left padding, `[batch, prompt_length] int32`; the first
            target tokens in an encoder-decoder.
        prompt_mask: True at valid prompt tokens, `[batch, prompt_length] bool`.
        seeds: Seed of each sequence, `[batch] uint32`; equal seeds give equal samples.
        offset: Number of tokens sampled for each sequence by previous calls, `[batch] int32`.
        source_tokens, source_mask: Source of an encoder-decoder,
            `[batch, source_length] int32` and `bool`.

    decode returns the same arrays as `make_beam_search`, with one text per sequence:
        tokens: Sampled tokens, `[batch, 1, num_new] int32`, padded with (the first) `eos_id`. The loop
            ends early once all sequences of the device have ended.
        log_probabilities: Log-probability under the unfiltered model including eos,
            `[batch, 1] float32`.
        scores: Equal to `log_probabilities`.
        finished: False if the text was cut at `num_new` tokens, `[batch, 1] bool`.

    Args:
        apply: Function (params, tokens, method=, **options) that calls a method of the model.
        make_cache: Function (batch_size, slots) -> empty cache.
        sampling: Sampling settings.
        num_new: Maximum number of new tokens.
        eos_id: Id of the end-of-sequence token, or ids that each end a text; None: the model has none.
    """
    eos_ids = eos_ids_of(eos_id)
    padding = eos_ids[0] if eos_ids else 0

    def decode(params: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        batch_size, prompt_length = batch["tokens"].shape
        slots = prompt_length + num_new
        row_keys = jax.vmap(jax.random.key)(batch["seeds"])
        # Slots after the prompt are all valid; causality masks those that are still empty.
        slots_mask = jnp.pad(batch["prompt_mask"], ((0, 0), (0, num_new)), constant_values=True)
        prompt = prefill(apply, params, batch, make_cache(batch_size, slots), slots)

        def unfinished(loop: _Loop) -> jax.Array:
            return (loop.count < num_new) & ~jnp.all(loop.done)

        def body(loop: _Loop) -> _Loop:
            keys = jax.vmap(jax.random.fold_in)(row_keys, batch["offset"] + loop.count)
            new = jnp.where(loop.done, padding, sample_tokens(loop.logits, keys, sampling))
            gain = jnp.where(loop.done, 0.0, _log_probability(loop.logits, new))
            done = loop.done | is_eos(new, eos_ids) if eos_ids else loop.done
            tokens = jax.lax.dynamic_update_slice(loop.tokens, new[:, None], (0, loop.count))
            logits, cache = apply(
                params,
                new[:, None],
                method="decode",
                positions=(prompt.prompt_lengths + loop.count)[:, None],
                attention_mask=slots_mask,
                cache=loop.cache,
            )
            total = loop.log_probabilities + gain
            return _Loop(loop.count + 1, logits[:, 0], cache, tokens, total, done)

        start = _Loop(
            count=jnp.zeros((), jnp.int32),
            logits=prompt.logits,
            cache=prompt.cache,
            tokens=jnp.full((batch_size, num_new), padding, jnp.int32),
            log_probabilities=jnp.zeros(batch_size),
            done=jnp.zeros(batch_size, bool),
        )
        end = jax.lax.while_loop(unfinished, body, start)
        return {
            "tokens": end.tokens[:, None],
            "log_probabilities": end.log_probabilities[:, None],
            "scores": end.log_probabilities[:, None],
            "finished": end.done[:, None],
        }

    return decode


def _log_probability(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns the log-probability of one token per sequence, `[batch] float32`."""
    selected = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    return selected - jax.nn.logsumexp(logits, axis=1)
