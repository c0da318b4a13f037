"""Beam search on one device: several hypotheses a row, the best of them returned.

The hypotheses of a row are further tokens of that row. At each step all of them are
fed together, as `[rows, num_beams]` tokens at one position, into `num_beams` slots of
the row's cache; a mask says which slots hold the past of which hypothesis. So no key
or value ever moves when hypotheses are kept, dropped or split (copying the caches
would read and write all of them at each step), and the source and the prompt are kept
once a row.
"""

import dataclasses
import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.decoding.prefill import read_prompt
from jaxdp.decoding.sampling import check_numbers
from jaxdp.errors import UserError
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """How hypotheses are compared, and how many.

    A hypothesis Y with tokens up to and including end of text is worth
    `log P(Y) / lp(Y)`, with `lp(Y) = ((5 + |Y|) / 6) ** length_penalty`.

    Source: Wu et al. 2016, section 7, equation 14. Departs: no coverage penalty, and
    no pruning but by the number of beams.

    Attributes:
        num_beams: live hypotheses of each row; 1: greedy.
        length_penalty: 0: plain log-probability, which favours short ones; 1: nearly
            the mean a token.
        num_returned: the best that many are returned.
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
                f"{self.num_returned} hypotheses cannot be returned of --num_beams={self.num_beams}; "
                "ask for more beams."
            )

    def divisor(self, num_tokens):
        """lp(Y) of a hypothesis of that many tokens."""
        return ((5.0 + num_tokens) / 6.0) ** self.length_penalty


class _Hypotheses(NamedTuple):
    """Some hypotheses of each row, best first.

    tokens: [rows, number, num_new] int32, filled up with the end.
    log_probabilities: [rows, number] float32; -inf: there is no such hypothesis.
    scores: [rows, number] float32, log-probability / length penalty.
    """

    tokens: jax.Array
    log_probabilities: jax.Array
    scores: jax.Array


class _Search(NamedTuple):
    """State of the search.

    count: [] int32, tokens of every live hypothesis.
    live: those not at their end; their scores are as if they ended here.
    past: [rows, num_beams, num_new] int32, which of a step's slots holds the token of
        that step of each live hypothesis.
    finished: those at their end.
    done: [rows] bool, nothing more can be returned.
    cache: keys and values of prompt and hypotheses, but for the last tokens.
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
    eos_id: int,
) -> Callable[[PyTree, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Builds beam_search(params, batch) for `parallel.spmd`.

    `batch` holds tokens, prompt_mask and, of an encoder-decoder, source_tokens and
    source_mask, as `make_decode` takes them.

    beam_search returns, of each row, the best `num_returned` hypotheses, best first:
        tokens: [rows, num_returned, num_new] int32, filled up with `eos_id`.
        log_probabilities: [rows, num_returned] float32, end of text included.
        scores: [rows, num_returned] float32, divided by the length penalty; -inf: there
            is no such hypothesis.
        finished: [rows, num_returned] bool; False: cut at `num_new` tokens.

    A step extends every live hypothesis by every token. Of the `num_beams` best
    extensions those at end of text are finished; the best `num_beams` of the others live
    on. A row is done when `num_beams` have finished, or when `num_returned` have and no
    live one could still beat them, were all its further tokens certain; the second
    saves steps and changes nothing. What has not finished after `num_new` tokens stands
    behind all that has. Rows do not feel each other: one that is done waits unchanged.

    Args:
        apply: (params, tokens, method=, **options) -> that method of the model.
        make_cache: (rows, slots) -> an empty cache.
        search: how hypotheses are compared, and how many.
        num_new: tokens of a hypothesis at most.
        eos_id: ends a hypothesis.
    """
    num_beams = search.num_beams

    def beam_search(params: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        rows, prompt_length = batch["tokens"].shape
        slots = prompt_length + num_new * num_beams
        prompt = read_prompt(apply, params, batch, make_cache(rows, slots), slots)

        def forward(state: _Search) -> tuple[jax.Array, PyTree]:
            last = state.count - 1
            positions = jnp.broadcast_to((prompt.sizes + last)[:, None], (rows, num_beams))
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
            return _extend(search, eos_id, state._replace(cache=cache), logits)

        start = _start(search, rows, num_new, eos_id, prompt.cache)
        first = jnp.broadcast_to(prompt.logits[:, None], (rows, num_beams, prompt.logits.shape[-1]))
        state = _extend(search, eos_id, start, first)
        return _best(search, jax.lax.while_loop(unfinished, body, state))

    return beam_search


def _start(search: BeamSearch, rows: int, num_new: int, end: int, cache: PyTree) -> _Search:
    """One live hypothesis a row, without tokens."""
    shape = (rows, search.num_beams)
    none = _Hypotheses(
        tokens=jnp.full((*shape, num_new), end, jnp.int32),
        log_probabilities=jnp.full(shape, -jnp.inf),
        scores=jnp.full(shape, -jnp.inf),
    )
    return _Search(
        count=jnp.zeros((), jnp.int32),
        live=none._replace(log_probabilities=none.log_probabilities.at[:, 0].set(0.0)),
        past=jnp.zeros((*shape, num_new), jnp.int32),
        finished=none,
        done=jnp.zeros(rows, bool),
        cache=cache,
    )


def _past_mask(prompt_mask: jax.Array, past: jax.Array, count: jax.Array) -> jax.Array:
    """The slots each live hypothesis may attend to, `[rows, num_beams, slots] bool`."""
    rows, num_beams, num_new = past.shape
    own = past[:, :, :, None] == jnp.arange(num_beams)[None, None, None, :]
    own = own & (jnp.arange(num_new) < count)[None, None, :, None]
    prompt = jnp.broadcast_to(prompt_mask[:, None], (rows, num_beams, prompt_mask.shape[1]))
    return jnp.concatenate([prompt, own.reshape(rows, num_beams, -1)], axis=2)


def _extend(search: BeamSearch, end: int, state: _Search, logits: jax.Array) -> _Search:
    """One token more, from `logits` `[rows, num_beams, vocab_size] float32` of the live hypotheses."""
    num_beams = search.num_beams
    totals, parents, words = _extensions(state.live.log_probabilities, logits)
    scores = totals / search.divisor(state.count + 1)
    ends = words == end

    tokens = _gather(state.live.tokens, parents)
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, words, state.count, 2)
    extended = _Hypotheses(tokens, totals, scores)

    best = jnp.arange(2 * num_beams)[None, :] < num_beams
    new = ends & best & ~state.done[:, None]
    finished = _merge(state.finished, extended._replace(scores=jnp.where(new, scores, -jnp.inf)))

    _, survivors = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), num_beams)
    live = jax.tree.map(lambda leaf: _gather(leaf, survivors), extended)
    past = _gather(state.past, _gather(parents, survivors))
    # Their tokens will stand in the slots of this step in their own order.
    own = jnp.broadcast_to(jnp.arange(num_beams)[None, :], survivors.shape)
    past = jax.lax.dynamic_update_index_in_dim(past, own, state.count, 2)

    enough = jnp.isfinite(finished.scores[:, -1])
    # Log-probabilities only fall and the divisor only grows.
    reachable = live.log_probabilities[:, 0] / search.divisor(state.past.shape[2])
    safe = finished.scores[:, search.num_returned - 1] >= reachable
    return _Search(
        count=state.count + 1,
        live=live,
        past=past,
        finished=finished,
        done=state.done | enough | safe,
        cache=state.cache,
    )


def _extensions(
    log_probabilities: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best 2 x num_beams extensions of each row by one token, best first.

    At most num_beams of them end, so num_beams are left to live on. Each hypothesis
    offers its best num_beams + 1 by their logits, in which equals are told apart as
    greedy decoding does.

    Returns:
        Log-probabilities `[rows, 2 * num_beams] float32`, parents and words `[rows,
        2 * num_beams] int32`.
    """
    rows, num_beams, vocab_size = logits.shape
    if num_beams >= vocab_size:
        raise UserError(
            f"--num_beams={num_beams} is too many for a vocabulary of {vocab_size} tokens; "
            "choose fewer than it has."
        )
    best, words = jax.lax.top_k(logits, num_beams + 1)
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    totals = (log_probabilities[:, :, None] + (best - log_z)).reshape(rows, -1)
    totals, places = jax.lax.top_k(totals, 2 * num_beams)
    return totals, places // (num_beams + 1), _gather(words.reshape(rows, -1), places)


def _merge(old: _Hypotheses, new: _Hypotheses) -> _Hypotheses:
    """The best of both, as many as `old` holds."""
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), old, new)
    scores, places = jax.lax.top_k(both.scores, old.scores.shape[1])
    return jax.tree.map(lambda leaf: _gather(leaf, places), both)._replace(scores=scores)


def _best(search: BeamSearch, state: _Search) -> dict[str, jax.Array]:
    """What is returned: those that finished, then those that were cut."""
    number = search.num_returned
    finished = jnp.isfinite(state.finished.scores)
    behind = jnp.arange(search.num_beams)[None, :] - finished.sum(axis=1, keepdims=True)
    cut = jax.tree.map(lambda leaf: _gather(leaf, jnp.maximum(behind, 0)), state.live)
    chosen = jax.tree.map(
        lambda end, live: jnp.where(finished.reshape(finished.shape + (1,) * (end.ndim - 2)), end, live)[:, :number],
        state.finished,
        cut,
    )
    return chosen._asdict() | {"finished": finished[:, :number]}


def _gather(values: jax.Array, places: jax.Array) -> jax.Array:
    """`values` `[rows, number, ...]` at `places` `[rows, chosen] int32` of axis 1."""
    return jnp.take_along_axis(values, places.reshape(places.shape + (1,) * (values.ndim - 2)), axis=1)
