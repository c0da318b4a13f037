"""`jaxdp bench --predict`: how fast a model writes, against the same loop without a cache.

Timings live here and never in a test.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.errors import UserError
from jaxdp.inference.initial_params import start_from
from jaxdp.inference.scoring import MAX_ROWS, TextWriter
from jaxdp.inference.trained_run import known_vocabularies
from jaxdp.model import Transformer, init_cache
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.tasks.make import make_task
from jaxdp.tasks.model_functions import apply_model
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir

NUM_BEAMS = 4
UNCACHED_BATCHES = 2
"""Of sources that the loop without a cache writes after: all of them could take hours."""

Decoding = tuple[Callable, Callable]
"""(apply, make_cache), as the loops of `jaxdp.decoding` take them."""


def measure_prediction(config: RunConfig) -> dict[str, Any]:
    """Times writing on the devices of this process; compiling does not count.

    Freshly drawn parameters know no end of text, and might give it at once: it is kept
    from them, so that every text has the most tokens. With `init_from` texts end where
    that model ends them.

    Returns:
        devices, device_kind, most_tokens, and whether texts `ends`. Of a task that
        writes after sources: sentences (`eval.num_scored` at most) and
        uncached_sentences, which are every n-th of them, and for greedy and beam_4 each
        {secs, per_sec, uncached_per_sec, ratio}, in sentences. Of causal language
        modelling: rows, prompt_tokens, and for greedy the same in tokens; no text ends.

    Raises:
        UserError: the task writes no texts, or no held-out text is to be written.
    """
    task = make_task(config)
    if task.predict_fields and not task.generated_field:
        raise UserError(f"--predict measures writing, but task={config.task} writes no texts.")
    prepared = prepare_run(config.replaced(total_steps=1, total_epochs=None, total_tokens=None), known_vocabularies(config, WorkDir("."), ()))
    if task.predict_fields and prepared.data.pairs is None:
        raise UserError("--predict writes held-out texts, but there are none: set eval.num_scored above 0 and data.source to a file.")
    setup = TrainingSetup(prepared)
    params = setup.fresh_state().params
    if config.init_from:
        params = start_from(config.init_from, params).params
    result = {
        "devices": setup.topology.num_devices,
        "device_kind": setup.topology.kind,
        "ends": bool(config.init_from and task.predict_fields),
    }
    return result | (_writing if task.predict_fields else _continuing)(setup, params)


def _writing(setup: TrainingSetup, params: PyTree) -> dict[str, Any]:
    """Held-out sources, greedily and with beams."""
    data, model = setup.data, setup.model
    sources, most = data.pairs.sources, setup.task.row_lengths[setup.task.generated_field]
    ways = {"cached": cached(model), "uncached": uncached(model, most)}
    if not setup.config.init_from:
        end = data.vocabularies.written.eos_id
        ways = {way: (_endless(apply, end), make_cache) for way, (apply, make_cache) in ways.items()}
    result: dict[str, Any] = {"sentences": len(sources), "most_tokens": most}
    for name, num_beams in (("greedy", 1), (f"beam_{NUM_BEAMS}", NUM_BEAMS)):
        secs = {}
        for way, decoding in ways.items():
            print_status(f"{name}, {way}: compiling")
            write = TextWriter(
                setup.task, model, data.vocabularies, setup.topology,
                setup.abstract_state.params, BeamSearch(num_beams), len(sources), decoding,
            )  # fmt: skip
            every = 1 if way == "cached" else max(len(sources) // (UNCACHED_BATCHES * write.at_once), 1)
            some = sources[::every][: len(sources) if way == "cached" else UNCACHED_BATCHES * write.at_once]
            print_status(f"{name}, {way}: writing {len(some)} texts")
            secs[way] = _seconds(lambda write=write, some=some: write(params, some)), len(some)
        result["uncached_sentences"] = secs["uncached"][1]
        result[name] = _compared(secs)
    return result


def _continuing(setup: TrainingSetup, params: PyTree) -> dict[str, Any]:
    """Random prompts of half the context, continued greedily to its end."""
    topology, model = setup.topology, setup.model
    context = model.config.max_length
    size, rows = context // 2, MAX_ROWS * topology.num_devices
    random = np.random.default_rng(setup.config.seed)
    batch = {
        "tokens": random.integers(0, model.config.vocab_size, (rows, size)).astype(np.int32),
        "prompt_mask": np.ones((rows, size), bool),
        "seeds": np.zeros(rows, np.uint32),
        "offset": np.zeros(rows, np.int32),
    }
    spec = {name: jax.ShapeDtypeStruct((MAX_ROWS, *array.shape[1:]), array.dtype) for name, array in batch.items()}
    secs, num_tokens = {}, rows * (context - size)
    for way, decoding in {"cached": cached(model), "uncached": uncached(model, context)}.items():
        print_status(f"greedy, {way}: compiling, and writing {num_tokens} tokens")
        program = compile_spmd(
            make_decode(*decoding, Sampling(temperature=0), num_new=context - size, eos_id=None),
            topology,
            setup.abstract_state.params,
            abstract_batch(spec, topology),
            mapped=(1,),
            mapped_output=True,
        )
        placed = place_batch(batch, topology)
        secs[way] = _seconds(lambda program=program, placed=placed: program(params, placed)), num_tokens
    return {"rows": rows, "prompt_tokens": size, "most_tokens": context - size, "greedy": _compared(secs)}


def _seconds(write: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(write())
    return time.perf_counter() - start


def _compared(secs: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Seconds and what was written in them, by way -> rates, and how many times faster the cache is."""
    per_sec = {way: number / duration for way, (duration, number) in secs.items()}
    return {
        "secs": secs["cached"][0],
        "per_sec": per_sec["cached"],
        "uncached_per_sec": per_sec["uncached"],
        "ratio": per_sec["cached"] / per_sec["uncached"],
    }


def cached(model: Transformer) -> Decoding:
    """The model as it decodes everywhere else."""
    return functools.partial(apply_model, model), functools.partial(init_cache, model.config)


def _endless(apply: Callable, end: int) -> Callable:
    """The same, but end of text is never written."""

    def kept_from_ending(params, tokens, *, method, **options):
        if method != "decode":
            return apply(params, tokens, method=method, **options)
        logits, cache = apply(params, tokens, method=method, **options)
        return logits.at[:, :, end].set(-jnp.inf), cache

    return kept_from_ending


class _Read(NamedTuple):
    """What stands in place of a cache: the tokens themselves.

    tokens: [rows, slots] int32, of prompts and hypotheses.
    index: [] int32, slots filled.
    source: [rows, source_length] int32 tokens and bool mask; None of a decoder.
    """

    tokens: jax.Array
    index: jax.Array
    source: tuple[jax.Array, jax.Array] | None


def uncached(model: Transformer, most: int) -> Decoding:
    """The model for the same loops, remembering nothing but tokens.

    At every new token the source goes through the encoder again (once for all beams
    of a row) and the whole text of each hypothesis through the decoder. Texts are
    filled up to `most` tokens at the right, where causality hides it, so that one
    program serves all lengths; the vocabulary is scored at the last token only.

    Args:
        model: the module.
        most: tokens that the decoder reads: the prompt, and all but the last of what is written.
    """
    whole = functools.partial(apply_model, model)

    def apply(params, tokens, *, method, cache=None, encoder_output=None, **options):
        if method == "encode":
            return tokens, options["attention_mask"]
        rows, num_tokens = tokens.shape
        stored = jax.lax.dynamic_update_slice(cache.tokens, tokens, (0, cache.index))
        read = _Read(stored, cache.index + num_tokens, cache.source if encoder_output is None else encoder_output)
        texts, sizes = _texts(read, options["attention_mask"], most)
        given = {}
        if read.source is not None:
            # Else a compiler might see that all steps encode the same.
            (source_tokens, mask), texts = jax.lax.optimization_barrier((read.source, texts))
            encoded = whole(params, source_tokens, method="encode", attention_mask=mask)
            number = len(texts) // rows
            given = {"encoder_output": jnp.repeat(encoded, number, axis=0), "source_mask": jnp.repeat(mask, number, axis=0)}
        # The cache is empty, and is thrown away.
        logits, _ = whole(
            params,
            texts,
            method="decode",
            cache=init_cache(model.config, len(texts), most),
            predict_at=sizes[:, None] - 1,
            **given,
        )
        return logits.reshape(rows, -1, logits.shape[-1]), read

    def make_cache(rows: int, slots: int) -> _Read:
        return _Read(jnp.zeros((rows, slots), jnp.int32), jnp.zeros((), jnp.int32), None)

    return apply, make_cache


def _texts(read: _Read, attention_mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """The tokens that a mask `[rows, slots]` or `[rows, hypotheses, slots] bool` leaves visible, in order.

    Returns:
        Texts `[rows * hypotheses, most] int32` and their sizes `[rows * hypotheses] int32`.
    """
    rows, slots = read.tokens.shape
    visible = attention_mask.reshape(rows, -1, slots) & (jnp.arange(slots) < read.index)[None, None, :]
    places = jnp.argsort(~visible, axis=2, stable=True)[:, :, :most]
    texts = jnp.take_along_axis(read.tokens[:, None, :], places, axis=2)
    return texts.reshape(-1, most), visible.sum(axis=2, dtype=jnp.int32).reshape(-1)
