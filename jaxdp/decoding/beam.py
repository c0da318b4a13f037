"""Beam search on one device, with a KV cache that is never reordered.

All hypotheses of a sequence share one cache. Each step appends one token of every
hypothesis, `[batch, num_beams]` tokens at the same position, to `num_beams` slots; a mask
records the slots that belong to each hypothesis. Keys and values therefore stay in place
when hypotheses are kept, dropped or split, whereas reordering would copy the whole cache
at every step. Source and prompt are stored once per sequence.
"""

import dataclasses
import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.decoding.eos import EosId, eos_ids_of, is_eos
from jaxdp.decoding.prefill import prefill
from jaxdp.decoding.sampling import check_numbers
from jaxdp.errors import UserError
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Beam search settings.

    The score of a hypothesis Y, including its eos token, is `log P(Y) / lp(Y)` with
    `lp(Y) = ((5 + |Y|) / 6) ** length_penalty`.

    Source: Wu et al. 2016, section 7, equation 14. Differs: no coverage penalty, and no
    pruning other than by the number of beams.

    Attributes:
        num_beams: Number of live hypotheses per sequence; 1: greedy decoding.
        length_penalty: Exponent of the length penalty; 0: total log-probability, which
            favours short hypotheses; 1: close to the mean log-probability per token.
        num_returned: Number of best hypotheses to return.
    """

    num_beams: int
    length_penalty: float = 0.6
    num_returned: int = 1

    def __post_init__(self):
        check_numbers(numbers.Integral, num_beams=self.num_beams, num_returned=self.num_returned)
        check_numbers(length_penalty=self.length_penalty)
        if self.num_beams < 1:
            raise UserError(f"--num_beams={self.num_beams} must be 1 (greedy) or more.")
        if not self.length_penalty >= 0:
            raise UserError(f"length_penalty = {self.length_penalty} must be 0 (off) or more.")
        if not 1 <= self.num_returned <= self.num_beams:
            raise UserError(
                f"{self.num_returned} hypotheses cannot be returned with --num_beams={self.num_beams}; "
                f"set it to at least {self.num_returned}."
            )

    def divisor(self, num_tokens):
        """Returns the length penalty lp(Y) of a hypothesis with `num_tokens` tokens."""
        return ((5.0 + num_tokens) / 6.0) ** self.length_penalty


class _Hypotheses(NamedTuple):
    """Hypotheses of each sequence, best first.

    Attributes:
        tokens: Tokens, padded with eos, `[batch, number, num_new] int32`.
        log_probabilities: Total log-probabilities, `[batch, number] float32`; -inf: empty entry.
        scores: Log-probability / length penalty, `[batch, number] float32`.
    """

    tokens: jax.Array
    log_probabilities: jax.Array
    scores: jax.Array


class _Search(NamedTuple):
    """State of the search.

    Attributes:
        count: Number of tokens of every live hypothesis, `[] int32`.
        live: Hypotheses without eos, with the scores that they would have if they ended here.
        past: Slot, among those of each step, of the token of every live hypothesis,
            `[batch, num_beams, num_new] int32`.
        finished: Hypotheses with eos.
        done: Whether the result of the sequence is final, `[batch] bool`.
        cache: Keys and values of prompt and hypotheses, except their last tokens.
    """

    count: jax.Array
    live: _Hypotheses
    past: jax.Array
    finished: _Hypotheses
    done: jax.Array
    cache: PyTree


def make_beam_search(
    apply: Callable,
    make_cache: Callable[[int, int], PyTree],
    search: BeamSearch,
    *,
    num_new: int,
    eos_id: EosId,
) -> Callable[[PyTree, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Builds beam_search(params, batch) for `parallel.spmd`.

    `batch` contains `tokens`, `prompt_mask` and, for an encoder-decoder, `source_tokens`
    and `source_mask`, as for `make_decode`.

    beam_search returns the `num_returned` best hypotheses of each sequence, best first:
        tokens: Tokens, padded with `eos_id`, `[batch, num_returned, num_new] int32`.
        log_probabilities: Total log-probability including eos, `[batch, num_returned] float32`.
        scores: Log-probability / length penalty, `[batch, num_returned] float32`; -inf: fewer
            hypotheses than requested.
        finished: False if the hypothesis was cut at `num_new` tokens, `[batch, num_returned] bool`.

    Each step extends every live hypothesis by every token. Among the `num_beams` best
    extensions, those that end in eos are finished; the best `num_beams` of the others stay
    live. A sequence is done when `num_beams` hypotheses have finished, or when
    `num_returned` have and no live hypothesis could still exceed their scores; the latter
    saves steps without changing the result. Hypotheses cut at `num_new` tokens rank after
    all finished ones. Sequences are independent of each other.

    Args:
        apply: Function (params, tokens, method=, **options) that calls a method of the model.
        make_cache: Function (batch_size, slots) -> empty cache.
        search: Beam search settings.
        num_new: Maximum number of new tokens.
        eos_id: Id of the end-of-sequence token, or ids that each end a text.
    """
    num_beams, eos_ids = search.num_beams, eos_ids_of(eos_id)
    padding = eos_ids[0] if eos_ids else 0

    def beam_search(params: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        batch_size, prompt_length = batch["tokens"].shape
        slots = prompt_length + num_new * num_beams
        prompt = prefill(apply, params, batch, make_cache(batch_size, slots), slots)

        def forward(state: _Search) -> tuple[jax.Array, PyTree]:
            last = state.count - 1
            positions = jnp.broadcast_to((prompt.prompt_lengths + last)[:, None], (batch_size, num_beams))
            tokens = jax.lax.dynamic_index_in_dim(state.live.tokens, last, 2, keepdims=False)
            return apply(
                params,
                tokens,
                method="decode",
                positions=positions,
                attention_mask=_past_mask(batch["prompt_mask"], state.past, state.count),
                cache=state.cache,
            )

        def unfinished(state: _Search) -> jax.Array:
            return (state.count < num_new) & ~jnp.all(state.done)

        def body(state: _Search) -> _Search:
            logits, cache = forward(state)
            return _extend(search, eos_ids, state._replace(cache=cache), logits)

        start = _start(search, batch_size, num_new, padding, prompt.cache)
        first = jnp.broadcast_to(prompt.logits[:, None], (batch_size, num_beams, prompt.logits.shape[-1]))
        state = _extend(search, eos_ids, start, first)
        return _best(search, jax.lax.while_loop(unfinished, body, state))

    return beam_search


def _start(search: BeamSearch, batch_size: int, num_new: int, padding: int, cache: PyTree) -> _Search:
    """Builds the initial state with one live hypothesis per sequence, without tokens."""
    shape = (batch_size, search.num_beams)
    empty = _Hypotheses(
        tokens=jnp.full((*shape, num_new), padding, jnp.int32),
        log_probabilities=jnp.full(shape, -jnp.inf),
        scores=jnp.full(shape, -jnp.inf),
    )
    return _Search(
        count=jnp.zeros((), jnp.int32),
        live=empty._replace(log_probabilities=empty.log_probabilities.at[:, 0].set(0.0)),
        past=jnp.zeros((*shape, num_new), jnp.int32),
        finished=empty,
        done=jnp.zeros(batch_size, bool),
        cache=cache,
    )


def _past_mask(prompt_mask: jax.Array, past: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the slots that each live hypothesis attends to, `[batch, num_beams, slots] bool`."""
    batch_size, num_beams, num_new = past.shape
    own = past[:, :, :, None] == jnp.arange(num_beams)[None, None, None, :]
    own = own & (jnp.arange(num_new) < count)[None, None, :, None]
    prompt = jnp.broadcast_to(prompt_mask[:, None], (batch_size, num_beams, prompt_mask.shape[1]))
    return jnp.concatenate([prompt, own.reshape(batch_size, num_beams, -1)], axis=2)


def _extend(search: BeamSearch, eos_ids: tuple[int, ...], state: _Search, logits: jax.Array) -> _Search:
    """Extends the live hypotheses by one token, given their logits `[batch, num_beams, vocab_size] float32`."""
    num_beams = search.num_beams
    totals, parents, new_tokens = _extensions(state.live.log_probabilities, logits, len(eos_ids))
    scores = totals / search.divisor(state.count + 1)
    ends = is_eos(new_tokens, eos_ids)

    tokens = _gather(state.live.tokens, parents)
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, new_tokens, state.count, 2)
    extended = _Hypotheses(tokens, totals, scores)

    best = jnp.arange(new_tokens.shape[1])[None, :] < num_beams
    new = ends & best & ~state.done[:, None]
    finished = _merge(state.finished, extended._replace(scores=jnp.where(new, scores, -jnp.inf)))

    _, survivors = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), num_beams)
    live = jax.tree.map(lambda leaf: _gather(leaf, survivors), extended)
    past = _gather(state.past, _gather(parents, survivors))
    # The next forward pass stores their tokens in the slots of this step, in this order.
    own = jnp.broadcast_to(jnp.arange(num_beams)[None, :], survivors.shape)
    past = jax.lax.dynamic_update_index_in_dim(past, own, state.count, 2)

    enough = jnp.isfinite(finished.scores[:, -1])
    # Upper bound of a live score: log-probabilities only decrease, and the divisor only increases.
    max_score = live.log_probabilities[:, 0] / search.divisor(state.past.shape[2])
    final = finished.scores[:, search.num_returned - 1] >= max_score
    return _Search(
        count=state.count + 1,
        live=live,
        past=past,
        finished=finished,
        done=state.done | enough | final,
        cache=state.cache,
    )


def _extensions(
    log_probabilities: jax.Array, logits: jax.Array, num_ends: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the best (1 + num_ends) * num_beams extensions of each sequence by one token, best first.

    At most num_ends * num_beams of them end in one of the eos ids, so at least num_beams
    stay live. The candidates are the best num_beams + num_ends tokens of each hypothesis,
    ranked by logits so that ties are resolved as in greedy decoding.

    Returns:
        Log-probabilities `[batch, (1 + num_ends) * num_beams] float32`, and parents and new
        tokens, each `[batch, (1 + num_ends) * num_beams] int32`.
    """
    batch_size, num_beams, vocab_size = logits.shape
    num_tokens = num_beams + max(num_ends, 1)
    if num_tokens > vocab_size:
        raise UserError(
            f"--num_beams={num_beams} is too many for a vocabulary of {vocab_size} tokens; "
            f"set it to at most {vocab_size - max(num_ends, 1)}."
        )
    best, tokens = jax.lax.top_k(logits, num_tokens)
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    totals = (log_probabilities[:, :, None] + (best - log_z)).reshape(batch_size, -1)
    totals, indices = jax.lax.top_k(totals, (1 + max(num_ends, 1)) * num_beams)
    return totals, indices // num_tokens, _gather(tokens.reshape(batch_size, -1), indices)


def _merge(old: _Hypotheses, new: _Hypotheses) -> _Hypotheses:
    """Merges two sets of hypotheses and keeps the best ones, as many as in `old`."""
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), old, new)
    scores, indices = jax.lax.top_k(both.scores, old.scores.shape[1])
    return jax.tree.map(lambda leaf: _gather(leaf, indices), both)._replace(scores=scores)


def _best(search: BeamSearch, state: _Search) -> dict[str, jax.Array]:
    """Returns the best finished hypotheses, followed by hypotheses that were cut."""
    number = search.num_returned
    finished = jnp.isfinite(state.finished.scores)
    cut_index = jnp.arange(search.num_beams)[None, :] - finished.sum(axis=1, keepdims=True)
    cut = jax.tree.map(lambda leaf: _gather(leaf, jnp.maximum(cut_index, 0)), state.live)
    result = jax.tree.map(
        lambda done, live: jnp.where(finished.reshape(finished.shape + (1,) * (done.ndim - 2)), done, live)[:, :number],
        state.finished,
        cut,
    )
    return result._asdict() | {"finished": finished[:, :number]}


def _gather(values: jax.Array, indices: jax.Array) -> jax.Array:
    """Selects from `values` `[batch, number, ...]` along axis 1 at `indices` `[batch, selected] int32`."""
    return jnp.take_along_axis(values, indices.reshape(indices.shape + (1,) * (values.ndim - 2)), axis=1)
