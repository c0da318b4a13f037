"""Decoding benchmark (`jaxdp bench --predict`): generation speed with the KV cache, compared with the same loop without it.

Timings are measured here and never in a test.
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
from jaxdp.inference.scoring import MAX_ROWS, TextWriter
from jaxdp.inference.starting_parameters import start_from
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
"""Maximum number of batches that the loop without a cache generates; the whole split could take hours."""

Decoding = tuple[Callable, Callable]
"""(apply, make_cache), as the loops of `jaxdp.decoding` take them."""


def measure_prediction(config: RunConfig) -> dict[str, Any]:
    """Measures generation on the devices of this process, without compilation.

    Initial parameters have not learned when to generate eos, so eos is disabled for them and every text has the
    maximum number of tokens. With `init_from`, the model decides when a text ends.

    Returns:
        devices, device_kind, most_tokens (maximum number of generated tokens) and ends (whether eos ends a text).
        For tasks that generate a target from a source: sentences (at most `eval.num_scored`), uncached_sentences
        (every n-th of them), and for greedy and beam_4 each {secs, per_sec, uncached_per_sec, ratio} in sentences.
        For causal language modelling: rows, prompt_tokens, and for greedy the same values in tokens.

    Raises:
        UserError: The task generates no text, or there is no validation text to generate.
    """
    task = make_task(config)
    if task.predict_fields and not task.generated_field:
        raise UserError(f"--predict measures generation, but task={config.task} generates no text.")
    prepared = prepare_run(
        config.replaced(total_steps=1, total_epochs=None, total_tokens=None),
        known_vocabularies(config, WorkDir("."), ()),
    )
    if task.predict_fields and prepared.data.pairs is None:
        raise UserError(
            "--predict generates texts of the validation split, but there are none: set eval.num_scored above 0 and data.source to a file."
        )
    setup = TrainingSetup(prepared)
    params = setup.placement.initial_params(setup.fresh_params)
    if config.init_from:
        params = start_from(config, params, prepared.data.vocabularies).params
    params = setup.strategy.eval_params(setup.placement.around(params))
    result = {
        "devices": setup.topology.num_devices,
        "device_kind": setup.topology.kind,
        "ends": bool(config.init_from and task.predict_fields),
    }
    return result | (_measure_targets if task.predict_fields else _measure_continuations)(setup, params)


def _measure_targets(setup: TrainingSetup, params: PyTree) -> dict[str, Any]:
    """Generates targets of validation sources, greedily and with beam search."""
    data, model = setup.data, setup.eval_model
    sources, max_tokens = data.pairs_to_score.sources, setup.task.row_lengths[setup.task.generated_field]
    ways = {"cached": cached(model), "uncached": uncached(model, max_tokens)}
    if not setup.config.init_from:
        eos_ids = data.vocabularies.eos_ids
        ways = {way: (_without_eos(apply, eos_ids), make_cache) for way, (apply, make_cache) in ways.items()}
    result: dict[str, Any] = {"sentences": len(sources), "most_tokens": max_tokens}
    for name, num_beams in (("greedy", 1), (f"beam_{NUM_BEAMS}", NUM_BEAMS)):
        secs = {}
        for way, decoding in ways.items():
            print_status(f"{name}, {way}: compiling")
            generate = TextWriter(
                setup.task, model, data.vocabularies, setup.topology,
                setup.placement.abstract_eval_params, BeamSearch(num_beams), len(sources), decoding,
            )  # fmt: skip
            every = 1 if way == "cached" else max(len(sources) // (UNCACHED_BATCHES * generate.at_once), 1)
            some = sources[::every][: len(sources) if way == "cached" else UNCACHED_BATCHES * generate.at_once]
            print_status(f"{name}, {way}: generating {len(some)} texts")
            secs[way] = _seconds(lambda generate=generate, some=some: generate(params, some)), len(some)
        result["uncached_sentences"] = secs["uncached"][1]
        result[name] = _compared(secs)
    return result


def _measure_continuations(setup: TrainingSetup, params: PyTree) -> dict[str, Any]:
    """Continues random prompts of half the context length greedily to the full length."""
    topology, model = setup.topology, setup.eval_model
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
        print_status(f"greedy, {way}: compiling, then generating {num_tokens} tokens")
        program = compile_spmd(
            make_decode(*decoding, Sampling(temperature=0), num_new=context - size, eos_id=None),
            topology,
            setup.placement.abstract_eval_params,
            abstract_batch(spec, topology),
            out_axes=0,
        )
        placed = place_batch(batch, topology)
        secs[way] = _seconds(lambda program=program, placed=placed: program(params, placed)), num_tokens
    return {"rows": rows, "prompt_tokens": size, "most_tokens": context - size, "greedy": _compared(secs)}


def _seconds(generate: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(generate())
    return time.perf_counter() - start


def _compared(secs: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Returns rates from (seconds, number of sentences or tokens) with and without a cache, and their ratio."""
    per_sec = {way: number / duration for way, (duration, number) in secs.items()}
    return {
        "secs": secs["cached"][0],
        "per_sec": per_sec["cached"],
        "uncached_per_sec": per_sec["uncached"],
        "ratio": per_sec["cached"] / per_sec["uncached"],
    }


def cached(model: Transformer) -> Decoding:
    """Returns the decoding functions with a KV cache, as everywhere else."""
    return functools.partial(apply_model, model), functools.partial(init_cache, model.config)


def _without_eos(apply: Callable, eos_ids: tuple[int, ...]) -> Callable:
    """Returns `apply` with eos excluded from decoding."""

    def apply_without_eos(params, tokens, *, method, **options):
        if method != "decode":
            return apply(params, tokens, method=method, **options)
        logits, cache = apply(params, tokens, method=method, **options)
        return logits.at[:, :, np.array(eos_ids)].set(-jnp.inf), cache

    return apply_without_eos


class _TokenCache(NamedTuple):
    """Replacement for a KV cache that stores tokens only.

    Attributes:
        tokens: [rows, slots] int32, prompts and hypotheses.
        index: [] int32, number of filled slots.
        source: [rows, source_length] int32 tokens and bool mask; None without an encoder.
    """

    tokens: jax.Array
    index: jax.Array
    source: tuple[jax.Array, jax.Array] | None


def uncached(model: Transformer, max_tokens: int) -> Decoding:
    """Returns the decoding functions for the same loops without a KV cache.

    For every new token the encoder runs again on the source (once for all beams of a row), and the decoder on the
    whole text of each hypothesis. Texts are padded at the right to `max_tokens`, where the causal mask hides the
    padding, so that one program serves all lengths. Logits are computed for the last token only.

    Args:
        model: Model.
        max_tokens: Maximum number of tokens that the decoder reads: the prompt and all generated tokens but the last.
    """
    whole = functools.partial(apply_model, model)

    def apply(params, tokens, *, method, cache=None, encoder_output=None, **options):
        if method == "encode":
            return tokens, options["attention_mask"]
        assert cache is not None, "every method but encode has one"
        rows, num_tokens = tokens.shape
        stored = jax.lax.dynamic_update_slice(cache.tokens, tokens, (0, cache.index))
        read = _TokenCache(stored, cache.index + num_tokens, cache.source if encoder_output is None else encoder_output)
        texts, sizes = _texts(read, options["attention_mask"], max_tokens)
        given = {}
        if read.source is not None:
            # The barrier keeps the compiler from encoding once for all steps.
            (source_tokens, mask), texts = jax.lax.optimization_barrier((read.source, texts))
            encoded = whole(params, source_tokens, method="encode", attention_mask=mask)
            number = len(texts) // rows
            given = {
                "encoder_output": jnp.repeat(encoded, number, axis=0),
                "source_mask": jnp.repeat(mask, number, axis=0),
            }
        # An empty cache, discarded after the call.
        logits, _ = whole(
            params,
            texts,
            method="decode",
            cache=init_cache(model.config, len(texts), max_tokens),
            predict_at=sizes[:, None] - 1,
            **given,
        )
        return logits.reshape(rows, -1, logits.shape[-1]), read

    def make_cache(rows: int, slots: int) -> _TokenCache:
        return _TokenCache(jnp.zeros((rows, slots), jnp.int32), jnp.zeros((), jnp.int32), None)

    return apply, make_cache


def _texts(read: _TokenCache, attention_mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
    """Selects the tokens that a mask `[rows, slots]` or `[rows, hypotheses, slots] bool` leaves visible, in order.

    Returns:
        Texts `[rows * hypotheses, max_tokens] int32` and their sizes `[rows * hypotheses] int32`.
    """
    rows, slots = read.tokens.shape
    visible = attention_mask.reshape(rows, -1, slots) & (jnp.arange(slots) < read.index)[None, None, :]
    positions = jnp.argsort(~visible, axis=2, stable=True)[:, :, :max_tokens]
    texts = jnp.take_along_axis(read.tokens[:, None, :], positions, axis=2)
    return texts.reshape(-1, max_tokens), visible.sum(axis=2, dtype=jnp.int32).reshape(-1)
