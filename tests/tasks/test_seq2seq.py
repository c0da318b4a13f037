"""Sequence to sequence: what the decoder reads, what it must write, what is measured."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tasks import with_output_layer
from tiny_tokenizer import LetterTokenizer

from jaxdp.errors import UserError
from jaxdp.tasks import Seq2Seq, TaskInputs, pad_examples

LENGTH, TARGET_LENGTH = 5, 4
TOKENIZER = LetterTokenizer(())
END = TOKENIZER.eos_id
ROWS = np.arange(3, dtype=np.int32)


def make_task(**inputs):
    inputs = {"tokenizer": TOKENIZER, "packing": "none", "options": {"bleu_tokenize": "13a"}} | inputs
    return Seq2Seq(TaskInputs(length=LENGTH, target_length=TARGET_LENGTH, **inputs))


def batch_of(task, pairs=(("ab", "xyz"), ("abcd", "z"))):
    examples = [task.prepare({"source": source, "target": target}, TOKENIZER) for source, target in pairs]
    rows, _ = pad_examples(task, examples, dict.fromkeys(task.eos_fields, END), 3)
    return task.make_batch(rows, 0, 0, ROWS)


def test_the_decoder_reads_the_target_one_place_late():
    batch = batch_of(make_task())
    assert batch["tokens"].tolist() == [[1, 2, END, 0, 0], [1, 2, 3, 4, END], [0] * 5]
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 5, 0]
    assert batch["targets"].tolist() == [[24, 25, 26, END], [26, END, 0, 0], [0] * 4]
    assert batch["target_tokens"].tolist() == [[END, 24, 25, 26], [END, 26, 0, 0], [0] * 4]
    assert batch["loss_weights"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [0] * 4]


def test_a_row_of_padding_has_no_targets_whatever_it_holds():
    task = make_task()
    rows = {
        "tokens": np.ones((2, LENGTH), np.int32), "num_tokens": np.array([5, 0], np.int32),
        "target_tokens": np.ones((2, TARGET_LENGTH), np.int32), "num_target_tokens": np.array([4, 4], np.int32),
    }  # fmt: skip
    assert task.make_batch(rows, 0, 0, ROWS[:2])["loss_weights"].sum(axis=1).tolist() == [4, 0]


def test_two_tokenizers():
    target = LetterTokenizer(("[A]", "[B]"))
    task = make_task(target_tokenizer=target)
    example = task.prepare({"source": "ab", "target": "ab"}, (TOKENIZER, target))
    assert (example["tokens"].tolist(), example["target_tokens"].tolist()) == ([1, 2], [3, 4])
    assert task.model_options == {
        "head": "language_model", "max_target_length": TARGET_LENGTH, "target_vocab_size": target.vocab_size,
    }  # fmt: skip
    assert "target_vocab_size" not in make_task().model_options


@pytest.mark.parametrize("missing", ["source", "target"])
def test_an_empty_side_is_refused(missing):
    record = {"source": "ab", "target": "ab"} | {missing: ""}
    with pytest.raises(UserError, match=f"the {missing} is empty"):
        make_task().prepare(record, TOKENIZER)


def test_packed_pairs_bring_everything():
    task = make_task(packing="documents")
    random = np.random.default_rng(0)
    rows = {name: random.integers(0, 9, (2, LENGTH), dtype=np.int32) for name in ("tokens", "segment_ids", "positions")}
    for name in ("target_tokens", "targets", "target_segment_ids", "target_positions"):
        rows[name] = random.integers(0, 9, (2, TARGET_LENGTH), dtype=np.int32)
    rows |= {"num_tokens": np.array([5, 2], np.int32), "num_target_tokens": np.array([3, 4], np.int32)}
    batch = task.make_batch(rows, 0, 0, ROWS[:2])
    assert batch["loss_weights"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[True] * 5, [True] * 2 + [False] * 3]
    spec = task.batch_spec(2)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
    }
    for name in rows.keys() - {"num_tokens", "num_target_tokens"}:
        assert batch[name] is rows[name]
    seen = {}
    task.outputs(lambda params, tokens, **options: seen.update(options), {}, batch)
    assert seen.keys() == {
        "attention_mask", "target_tokens", "segment_ids", "positions", "target_segment_ids", "target_positions",
    }  # fmt: skip


def random_logits(params, tokens, *, attention_mask, target_tokens, row_keys=None):
    random = np.random.default_rng(3)
    return jnp.asarray(random.normal(size=(*target_tokens.shape, TOKENIZER.vocab_size)), jnp.float32)


def test_every_token_of_a_target_counts_once():
    task = make_task()
    batch = batch_of(task)
    sums = task.loss(with_output_layer(random_logits), {}, batch, None, train=False)
    logits = np.asarray(random_logits({}, None, attention_mask=None, target_tokens=batch["targets"]), np.float64)
    nats = correct = 0.0
    for place in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]:
        target = batch["targets"][place]
        nats += np.log(np.exp(logits[place]).sum()) - logits[place][target]
        correct += logits[place].argmax() == target
    np.testing.assert_allclose([sums.loss, sums.weight, sums.tokens], [nats, 6, 6 + 8], rtol=1e-6)
    np.testing.assert_allclose(sums.metrics["accuracy"], (correct, 6))
    assert task.derived_metrics({"loss": 2.0}) == {"perplexity": math.exp(2.0)}
    smooth = make_task(label_smoothing=0.1)
    assert smooth.loss(with_output_layer(random_logits), {}, batch, None, train=True).loss > nats
    assert smooth.loss(with_output_layer(random_logits), {}, batch, None, train=False).loss == sums.loss


def test_a_request_is_a_source_and_a_beginning():
    task = make_task()
    rows, _ = pad_examples(task, [task.prepare_for_predict({"source": "ab"}, TOKENIZER)], {"tokens": END}, 2)
    batch = task.make_predict_batch(rows)
    assert batch["source_tokens"].tolist() == [[1, 2, END, 0, 0], [0] * 5]
    assert batch["source_mask"].sum(axis=1).tolist() == [3, 0]
    assert batch["tokens"].tolist() == [[END], [END]] and batch["prompt_mask"].all()


def test_scores_are_those_of_the_option():
    texts, references = ["the cat sat on the mat"], ["the cat sat on a mat"]
    summary = make_task().score(texts, references)
    assert list(summary.metrics) == [spec.name for spec in make_task().score_metrics]
    assert "tok:13a" in summary.report["bleu"]["signature"]
    characters = make_task(options={"bleu_tokenize": "char"}).score(texts, references)
    assert "tok:char" in characters.report["bleu"]["signature"]
    with pytest.raises(UserError, match=r"seq2seq\.bleu_tokenize='words' is unknown; choose one of: 13a, char"):
        make_task(options={"bleu_tokenize": "words"})
