"""Masked language modelling: rows, what is hidden in them, what is measured, how requests are answered."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tasks import with_output_layer
from tiny_tokenizer import LetterTokenizer

from jaxdp.errors import UserError
from jaxdp.tasks import MaskedLM, TaskInputs, pad_examples

LENGTH, CLASS, SEPARATOR, MASK = 10, 1, 2, 3
TOKENIZER = LetterTokenizer()
ROWS = np.arange(4, dtype=np.int32)


def make_task(mask_rate=0.25, whole_words=False, num_candidates=10, **inputs):
    inputs = {"length": LENGTH, "tokenizer": TOKENIZER, "packing": "none"} | inputs
    return MaskedLM(
        TaskInputs(
            **inputs, options={"mask_rate": mask_rate, "whole_words": whole_words, "num_candidates": num_candidates}
        )
    )


def rows_of(task, texts, num_rows=4):
    examples = [task.prepare({"text": text}, TOKENIZER) for text in texts]
    return pad_examples(task, examples, {"tokens": TOKENIZER.eos_id}, num_rows)[0]


def shown(batch, row):
    """The row with its targets put back."""
    tokens = batch["tokens"][row].copy()
    hidden = batch["loss_weights"][row] > 0
    tokens[batch["predict_at"][row][hidden]] = batch["targets"][row][hidden]
    return tokens[batch["attention_mask"][row]].tolist()


def test_a_document_stands_between_its_marks():
    task = make_task()
    batch = task.make_batch(rows_of(task, ["abc", "abcdefgh", "abcdefghi"]), 0, 0, ROWS)
    letters = list(range(4, 13))
    assert shown(batch, 0) == [CLASS, *letters[:3], SEPARATOR]
    assert shown(batch, 1) == shown(batch, 2) == [CLASS, *letters[:8], SEPARATOR]
    assert not batch["attention_mask"][3].any() and not batch["loss_weights"][3].any()
    assert batch["loss_weights"].sum(axis=1).tolist() == [1, 2, 2, 0]


def test_windows_meet_without_overlap_and_end_of_text_is_never_hidden():
    task = make_task(packing="cut", mask_rate=1.0)
    assert task.row_lengths == {"tokens": LENGTH - 2}
    tokens = np.array([[4, 5, 0, 6, 7, 8, 9, 10, 11], [11, 12, 0, 0, 0, 0, 0, 0, 0]], np.int32)
    batch = task.make_batch({"tokens": tokens, "num_tokens": np.array([9, 3], np.int32)}, 0, 0, ROWS[:2])
    assert shown(batch, 0) == [CLASS, 4, 5, 0, 6, 7, 8, 9, 10, SEPARATOR]
    assert shown(batch, 1) == [CLASS, 11, 12, 0, SEPARATOR]
    assert batch["targets"][0].tolist() == [4, 5, 6, 7, 8, 9, 10, 0]
    assert batch["loss_weights"].sum(axis=1).tolist() == [7, 2]


def test_whole_words_are_hidden_whole():
    task = make_task(0.5, whole_words=True, length=22)
    rows = rows_of(task, ["abc def ghi jkl mno"] * 4)
    batch = task.make_batch(rows, 3, 5, ROWS)
    for row in range(4):
        hidden = set(batch["predict_at"][row][batch["loss_weights"][row] > 0].tolist())
        words = [{1, 2, 3}] + [set(range(4 * n, 4 * n + 4)) for n in range(1, 5)]
        assert len(hidden) in (8, 7) and all(word <= hidden or not word & hidden for word in words)


def test_a_token_may_end_a_word():
    class Sentences(LetterTokenizer):
        """The letter x ends a word, whatever follows."""

        def word_boundaries(self):
            boundaries = super().word_boundaries()
            boundaries[self.encode("x"), 1] = True
            return boundaries

    task = make_task(0.4, whole_words=True, tokenizer=Sentences())
    batch = task.make_batch(rows_of(task, ["abxcdx fg"[:8]] * 4), 0, 0, ROWS)
    for row in range(4):
        hidden = set(batch["predict_at"][row][batch["loss_weights"][row] > 0].tolist())
        assert hidden in ({1, 2, 3}, {4, 5, 6}, {7, 8})


def test_whole_words_need_a_tokenizer_that_knows_them():
    class Characters(LetterTokenizer):
        def word_boundaries(self):
            return None

    with pytest.raises(UserError, match=r"masked_lm\.whole_words needs a tokenizer .* bpe:N"):
        make_task(whole_words=True, tokenizer=Characters())
    make_task(tokenizer=Characters())


@pytest.mark.parametrize("rate", [0.0, 1.5, -0.1])
def test_a_rate_is_a_share(rate):
    with pytest.raises(UserError, match=rf"masked_lm\.mask_rate is {rate}; expected a share above 0"):
        make_task(rate)


def test_the_shortest_row():
    assert make_task(length=3).row_lengths == {"tokens": 2}
    with pytest.raises(UserError, match=r"data\.length=2 is too short"):
        make_task(length=2)


def random_scores(params, tokens, *, attention_mask, predict_at, row_keys=None):
    random = np.random.default_rng(3)
    return jnp.asarray(random.normal(size=(*predict_at.shape, TOKENIZER.vocab_size)), jnp.float32)


def test_only_hidden_tokens_count():
    task = make_task()
    batch = task.make_batch(rows_of(task, ["abc", "abcdefgh"]), 0, 0, ROWS)
    sums = task.loss(with_output_layer(random_scores), {}, batch, None, train=False)
    scores = np.asarray(random_scores({}, None, attention_mask=None, predict_at=batch["predict_at"]), np.float64)
    nats = correct = 0.0
    for place in zip(*np.nonzero(batch["loss_weights"]), strict=True):
        target = batch["targets"][place]
        nats += np.log(np.exp(scores[place]).sum()) - scores[place][target]
        correct += scores[place].argmax() == target
    np.testing.assert_allclose([sums.loss, sums.weight, sums.tokens], [nats, 3, 5 + 10], rtol=1e-6)
    np.testing.assert_allclose(sums.metrics["accuracy"], (correct, 3))
    assert task.derived_metrics({"loss": 2.0}) == {"perplexity": math.exp(2.0)}
    strict = make_task(label_smoothing=0.2, z_loss=0.1)
    assert strict.loss(with_output_layer(random_scores), {}, batch, None, train=True).loss > nats
    assert strict.loss(with_output_layer(random_scores), {}, batch, None, train=False).loss == sums.loss


def test_a_request_says_what_is_hidden_and_gets_the_best_guesses():
    task = make_task()
    requests = [task.prepare_for_predict({"text": text}, TOKENIZER) for text in ("a[MASK]c", "[MASK][MASK]")]
    rows, _ = pad_examples(task, requests, {"tokens": 0}, 3)
    batch = task.make_predict_batch(rows)
    assert batch["tokens"][0].tolist() == [CLASS, 4, MASK, 6, SEPARATOR, 0, 0, 0, 0, 0]
    assert batch["predict_at"].tolist() == [[2, 0], [1, 2], [0, 0]]
    assert batch["loss_weights"].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in task.batch_spec(3).items()} == {
        name: (array.shape, array.dtype) for name, array in batch.items()
    }
    answers = task.predictions(
        {name: np.asarray(array) for name, array in task.outputs(random_scores, {}, batch).items()}
    )
    assert [len(answer["candidates"]) for answer in answers] == [1, 2, 0]
    scores = np.asarray(random_scores({}, None, attention_mask=None, predict_at=batch["predict_at"]), np.float64)[1, 1]
    best = answers[1]["candidates"][1]
    assert len(best) == 10
    order = np.argsort(-scores)[:10]
    assert [guess["token"] for guess in best] == [TOKENIZER.decode([number]) for number in order]
    expected = np.exp(scores[order]) / np.exp(scores).sum()
    np.testing.assert_allclose([guess["probability"] for guess in best], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("abc", r"has 0 times \[MASK\], expected 1 to 2"),
        ("[MASK]" * 3, r"has 3 times \[MASK\], expected 1 to 2"),
        ("abcdefgh[MASK]", r"has 9 tokens, expected at most 8"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(text, problem):
    with pytest.raises(UserError, match=problem):
        make_task().prepare_for_predict({"text": text}, TOKENIZER)
