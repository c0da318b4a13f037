"""Evaluation of a split that does not come out even, against NumPy over its tokens."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import LENGTH, VOCAB_SIZE, bigram, bigram_params, topology

from jaxdp.data.pipeline import eval_batches
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.evaluation import EvaluationInterrupted, evaluate
from jaxdp.parallel.control_word import control_word_maker, control_word_spec
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.step import make_eval_step
from jaxdp.tasks import CausalLM, TaskInputs

ROWS = 8  # of a batch


class Tokenizer:
    """Token i stands for 1 + i % 4 bytes."""

    def token_bytes(self):
        return 1 + np.arange(VOCAB_SIZE, dtype=np.int32) % 4


TASK = CausalLM(TaskInputs(length=LENGTH, tokenizer=Tokenizer(), label_smoothing=0.5, z_loss=0.5))
# 2 whole batches, then 3 sequences; the last one has 2 targets.
TOKENS = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2 * ROWS + 2) * LENGTH + 2 + 1)


def expected(tokens):
    """Every token but the first is a target once, whatever the rows and batches."""
    params = {name: array.astype(np.float64) for name, array in bigram_params().items()}
    logits = params["table"][tokens[:-1]] @ params["kernel"]
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), tokens[1:]]
    return {
        "eval/loss": nats.mean(),
        "eval/accuracy": (logits.argmax(1) == tokens[1:]).mean(),
        "eval/perplexity": math.exp(nats.mean()),
        "eval/bits_per_byte": nats.sum() / math.log(2) / (1 + tokens[1:] % 4).sum(),
    }


@pytest.fixture(scope="module", params=[(1, 1), (2, 2), (4, 1), (8, 1)])
def measured(request):
    """evaluate(tokens, num_batches) on some devices, in some microbatches."""
    num_devices, num_microbatches = request.param
    here = topology(num_devices)
    params = jax.device_put(bigram_params(), here.replicated)
    row_spec = {"row_ids": jax.ShapeDtypeStruct((ROWS // num_devices,), jnp.int32)}
    program = compile_spmd(
        make_eval_step(
            lambda params, rows, row_keys: TASK.loss(bigram, params, rows, row_keys, False),
            num_microbatches=num_microbatches,
        ),
        here,
        abstract_replicated(params, here),
        abstract_batch(TASK.batch_spec(ROWS // num_devices) | row_spec, here),
        abstract_batch(control_word_spec(), here),
    )
    make_control_word = control_word_maker(here)

    def call(tokens, num_batches=0, ask=lambda: 0):
        batches = eval_batches(
            TokenWindows(tokens, LENGTH, keep_tail=True),
            TASK.make_batch,
            global_batch_size=ROWS,
            num_processes=1,
            process_index=0,
            num_batches=num_batches,
        )
        return evaluate(
            program,
            params,
            batches,
            lambda batch: place_batch(batch, here),
            lambda: make_control_word(ask(), 0),
            TASK.derived_metrics,
        )

    return call


def test_every_token_counts_once_however_the_split_falls(measured):
    metrics, truth = measured(TOKENS), expected(TOKENS)
    assert metrics.keys() == truth.keys()
    for name, value in truth.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6), name


def test_the_smallest_split_leaves_devices_without_rows(measured):
    metrics, truth = measured(TOKENS[:2]), expected(TOKENS[:2])
    for name, value in truth.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6), name


def test_a_part_of_the_split(measured):
    metrics = measured(TOKENS, num_batches=1)
    assert metrics["eval/loss"] == pytest.approx(expected(TOKENS[: ROWS * LENGTH + 1])["eval/loss"], rel=1e-6)


def test_each_batch_is_read_after_the_next_is_dispatched():
    events = []

    class Result:
        def __init__(self, number):
            self.number = number

        def __array__(self, dtype=None, copy=None):
            events.append(f"read {self.number}")
            return np.array([self.number, 1.0])

    def program(params, batch, request):
        events.append(f"dispatch {batch}")
        return {"loss": Result(batch)}, {}, request

    metrics = evaluate(program, None, iter([1, 2, 3]), lambda batch: batch, lambda: 0, lambda means: {})
    assert events == ["dispatch 1", "dispatch 2", "read 1", "dispatch 3", "read 2", "read 3"]
    assert metrics == {"eval/loss": 2.0}


def test_derived_metrics_see_the_means():
    def program(params, batch, request):
        return {"loss": (batch, 1.0)}, {}, request

    metrics = evaluate(
        program, None, [1.0, 2.0], lambda batch: batch, lambda: 0, lambda means: {"twice": 2 * means["loss"]}
    )
    assert metrics == {"eval/loss": 1.5, "eval/twice": 3.0}


def test_a_request_ends_it_after_the_same_batch_everywhere(measured):
    """What any device's process asks, all read with the batch it came with."""
    asked = iter([0, 15, 0, 0, 0, 0, 0, 0])
    with pytest.raises(EvaluationInterrupted) as left:
        measured(TOKENS, ask=lambda: next(asked))
    assert left.value.request == 15
    assert len(list(asked)) == 5  # the third batch was under way when the second one's request was read


def test_a_request_that_comes_with_the_last_batch_is_too_late(measured):
    assert measured(TOKENS[:2], ask=lambda: 15) == measured(TOKENS[:2])
