"""Texts written for sources of any number and length."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny_decoding import lively_params
from tiny_tokenizer import LetterTokenizer
from tiny_training import topology

from jaxdp.config import parse_config
from jaxdp.data.dataset import Pairs
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.decoding.beam import BeamSearch
from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.inference import scoring
from jaxdp.inference.scoring import Scorer, TextWriter
from jaxdp.model import Transformer, model_config
from jaxdp.parallel import control_word
from jaxdp.parallel.placement import abstract_replicated
from jaxdp.tasks import TaskInputs, registered_tasks

LENGTHS = [5, 2, 9, 3, 9, 1, 4, 7, 2, 6]
TOKENIZER = LetterTokenizer(letters="abcdefgh")


@pytest.fixture(scope="module")
def task_and_model():
    inputs = TaskInputs(
        length=10, target_length=8, tokenizer=TOKENIZER, packing="none", label_smoothing=0.0, z_loss=0.0,
        options={"bleu_tokenize": "13a"},
    )  # fmt: skip
    task = registered_tasks()["seq2seq"](inputs)
    shape = {
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "embed_dim": 16,
        "mlp_dim": 24,
        "tie_embeddings": False,
    }
    config = model_config("seq2seq_nano", shape, vocab_size=TOKENIZER.vocab_size, max_length=10, **task.model_options)
    return task, Transformer(config)


@pytest.fixture(scope="module")
def params(task_and_model):
    return lively_params(task_and_model[1], seed=0)


@pytest.fixture(scope="module")
def written(task_and_model, params):
    """(write, params, sources): four at once on two devices."""
    here = topology(2)
    abstract = abstract_replicated(params, here)
    write = TextWriter(*task_and_model, Vocabularies(TOKENIZER), here, abstract, BeamSearch(2), 4)
    return write, jax.device_put(params, here.replicated), made_up_sources()


def made_up_sources():
    random = np.random.default_rng(0)
    return [random.integers(1, TOKENIZER.vocab_size, length).astype(np.int32) for length in LENGTHS]


def test_texts_come_in_the_order_of_their_sources(written):
    write, params, sources = written
    together = write(params, sources)
    assert len({each.text for [each] in together}) > 3
    for source, [each] in zip(sources, together, strict=True):
        [[alone]] = write(params, [source])
        assert (alone.text, alone.finished) == (each.text, each.finished)
        assert alone.log_probability == pytest.approx(each.log_probability, abs=1e-4)


def test_sources_of_like_length_are_written_together(written, monkeypatch):
    write, params, sources = written
    batches, make = [], write._batch
    monkeypatch.setattr(
        write,
        "_batch",
        lambda some, rows, seeds: batches.append([len(each) for each in some]) or make(some, rows, seeds),
    )
    done = []
    write(params, sources, lambda: done.append(len(batches)))
    assert [length for batch in batches for length in batch] == sorted(LENGTHS)
    assert [len(batch) for batch in batches] == [4, 4, 2] and done == [1, 2, 3]


def test_a_request_of_any_process_ends_scoring_before_the_same_batch_everywhere(task_and_model, params, monkeypatch):
    """Each device stands for a process; the second one asks, before the second of three batches."""
    make, here = control_word.host_control_word, topology(2)

    def by_the_second(num_devices, request, batch_hash=0):
        return make(num_devices, 0, batch_hash) | {"request": np.array([0, request], np.int32)}

    monkeypatch.setattr(control_word, "host_control_word", by_the_second)
    monkeypatch.setattr(scoring, "MAX_ROWS", 2)
    sources = made_up_sources()
    data = SimpleNamespace(vocabularies=Vocabularies(TOKENIZER), pairs_to_score=Pairs(sources, ["a"] * len(sources), 0))
    score = Scorer(parse_config({"total_steps": 1}), *task_and_model, data, here, abstract_replicated(params, here))
    done, asked = [], iter([0, 15])
    with pytest.raises(EvaluationInterrupted) as left:
        score(jax.device_put(params, here.replicated), lambda: done.append(True), lambda: next(asked))
    assert left.value.request == 15 and len(done) == 1
    assert set(score(jax.device_put(params, here.replicated)).metrics) == {
        spec.name for spec in task_and_model[0].score_metrics
    }
