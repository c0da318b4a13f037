"""The decode loop of one device: prompts in, new tokens out, one forward pass of one token a step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.decoding.prefill import read_prompt
from jaxdp.decoding.sampling import Sampling, draw
from jaxdp.typing import PyTree


class _Loop(NamedTuple):
    """State of the loop.

    count: [] int32, tokens drawn so far.
    logits: [rows, vocab_size] float32, for the token to be drawn.
    cache: keys and values of all tokens before it.
    tokens: [rows, num_new] int32, those drawn, and the fill after the end.
    log_probabilities: [rows] float32, of those drawn.
    done: [rows] bool, end of text was drawn.
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
    eos_id: int | None,
) -> Callable[[PyTree, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Builds decode(params, batch) for `parallel.spmd`.

    `batch` holds, for this device's rows:
        tokens: [rows, prompt_length] int32, padded on the left; of an encoder-decoder
            the first tokens of the target.
        prompt_mask: [rows, prompt_length] bool, False on the padding.
        seeds: [rows] uint32, one for each row; equal seeds draw equally.
        offset: [rows] int32, tokens drawn for this row by earlier calls.
        source_tokens, source_mask: [rows, source_length] int32 and bool, of an
            encoder-decoder.

    decode returns what `make_beam_search` does, of one text a row:
        tokens: [rows, 1, num_new] int32; a row that drew `eos_id` is filled up
            with it, and a device whose rows have all done so stops early.
        log_probabilities: [rows, 1] float32, the model's own, whatever was kept from
            being drawn; end of text included.
        scores: the same.
        finished: [rows, 1] bool; False: cut at `num_new` tokens.

    Args:
        apply: (params, tokens, method=, **options) -> that method of the model.
        make_cache: (rows, slots) -> an empty cache.
        sampling: how tokens are drawn.
        num_new: tokens to draw at most.
        eos_id: None: there is none.
    """
    fill = 0 if eos_id is None else eos_id

    def decode(params: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        rows, prompt_length = batch["tokens"].shape
        slots = prompt_length + num_new
        row_keys = jax.vmap(jax.random.key)(batch["seeds"])
        # Slots after the prompt are all real; the cache hides those not yet written.
        slots_mask = jnp.pad(batch["prompt_mask"], ((0, 0), (0, num_new)), constant_values=True)
        prompt = read_prompt(apply, params, batch, make_cache(rows, slots), slots)

        def unfinished(loop: _Loop) -> jax.Array:
            return (loop.count < num_new) & ~jnp.all(loop.done)

        def body(loop: _Loop) -> _Loop:
            keys = jax.vmap(jax.random.fold_in)(row_keys, batch["offset"] + loop.count)
            drawn = jnp.where(loop.done, fill, draw(loop.logits, keys, sampling))
            gained = jnp.where(loop.done, 0.0, _log_probability(loop.logits, drawn))
            done = loop.done if eos_id is None else loop.done | (drawn == eos_id)
            tokens = jax.lax.dynamic_update_slice(loop.tokens, drawn[:, None], (0, loop.count))
            logits, cache = apply(
                params,
                drawn[:, None],
                method="decode",
                positions=(prompt.sizes + loop.count)[:, None],
                attention_mask=slots_mask,
                cache=loop.cache,
            )
            total = loop.log_probabilities + gained
            return _Loop(loop.count + 1, logits[:, 0], cache, tokens, total, done)

        start = _Loop(
            count=jnp.zeros((), jnp.int32),
            logits=prompt.logits,
            cache=prompt.cache,
            tokens=jnp.full((rows, num_new), fill, jnp.int32),
            log_probabilities=jnp.zeros(rows),
            done=jnp.zeros(rows, bool),
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
    """Of one token a row, `[rows] float32`."""
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=1)
