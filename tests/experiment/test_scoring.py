"""Texts written for sources of any number and length."""

import jax
import numpy as np
import pytest
from tiny_decoding import lively_params
from tiny_tokenizer import LetterTokenizer
from tiny_training import topology

from jaxdp.experiment.scoring import TextWriter
from jaxdp.experiment.vocabularies import Vocabularies
from jaxdp.inference.beam import BeamSearch
from jaxdp.model import Transformer, model_config
from jaxdp.parallel.placement import abstract_replicated
from jaxdp.tasks import TaskInputs, registered_tasks

LENGTHS = [5, 2, 9, 3, 9, 1, 4, 7, 2, 6]
TOKENIZER = LetterTokenizer(letters="abcdefgh")


@pytest.fixture(scope="module")
def written():
    """(write, params, sources): four at once on two devices."""
    inputs = TaskInputs(
        length=10, target_length=8, tokenizer=TOKENIZER, packing="none", label_smoothing=0.0, z_loss=0.0,
        options={"bleu_tokenize": "13a"},
    )  # fmt: skip
    task = registered_tasks()["seq2seq"](inputs)
    shape = {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "embed_dim": 16, "mlp_dim": 24, "tie_embeddings": False}
    model = Transformer(
        model_config("seq2seq_nano", shape, vocab_size=TOKENIZER.vocab_size, max_length=10, **task.model_options)
    )
    params, here = lively_params(model, seed=0), topology(2)
    write = TextWriter(task, model, Vocabularies(TOKENIZER), here, abstract_replicated(params, here), BeamSearch(2), 4)
    random = np.random.default_rng(0)
    sources = [random.integers(1, TOKENIZER.vocab_size, length).astype(np.int32) for length in LENGTHS]
    return write, jax.device_put(params, here.replicated), sources


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
    monkeypatch.setattr(write, "_batch", lambda some, rows, seeds: batches.append([len(each) for each in some]) or make(some, rows, seeds))
    done = []
    write(params, sources, lambda: done.append(len(batches)))
    assert [length for batch in batches for length in batch] == sorted(LENGTHS)
    assert [len(batch) for batch in batches] == [4, 4, 2] and done == [1, 2, 3]
