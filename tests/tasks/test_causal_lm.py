"""Next-token prediction: which token is the target of which, and what is measured."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.tasks import CausalLM, TaskInputs

LENGTH, VOCAB_SIZE = 4, 5
ROWS = np.arange(3, dtype=np.int32)


class Bytes:
    """Token i stands for i bytes; token 0 is the end of text."""

    def token_bytes(self):
        return np.arange(VOCAB_SIZE, dtype=np.int32)


@pytest.fixture(scope="module")
def batch():
    task = CausalLM(TaskInputs(length=LENGTH))
    examples = {
        "tokens": np.array([[1, 2, 3, 4, 1], [2, 3, 0, 0, 0], [4, 0, 0, 0, 0]], np.int32),
        "num_tokens": np.array([5, 2, 0], np.int32),
    }
    return task.make_batch(examples, 0, 0, ROWS)


def test_each_token_is_predicted_from_those_before_it(batch):
    assert batch["tokens"].tolist() == [[1, 2, 3, 4], [2, 3, 0, 0], [4, 0, 0, 0]]
    assert batch["targets"].tolist() == [[2, 3, 4, 1], [3, 0, 0, 0], [0, 0, 0, 0]]


def test_targets_past_the_end_of_a_row_have_no_weight(batch):
    assert batch["loss_weights"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_a_document_is_its_tokens():
    class Letters:
        def encode(self, text):
            return np.array([ord(letter) - 96 for letter in text], np.int32)

    task = CausalLM(TaskInputs(length=LENGTH))
    assert task.prepare({"text": "abc"}, Letters())["tokens"].tolist() == [1, 2, 3]


def random_logits(params, tokens, row_keys=None):
    random = np.random.default_rng(3)
    return jnp.asarray(random.normal(size=(*tokens.shape, VOCAB_SIZE)), jnp.float32)


def test_evaluation_is_pure_and_training_is_regularised(batch):
    plain = CausalLM(TaskInputs(length=LENGTH))
    strict = CausalLM(TaskInputs(length=LENGTH, label_smoothing=0.2, z_loss=0.1))
    pure = plain.loss(random_logits, {}, batch, None, train=True).loss
    assert strict.loss(random_logits, {}, batch, None, train=False).loss == pure
    assert strict.loss(random_logits, {}, batch, None, train=True).loss > pure
    assert strict.loss(random_logits, {}, batch, None, train=True).metrics == {}


def test_metrics_of_an_evaluation(batch):
    task = CausalLM(TaskInputs(length=LENGTH, tokenizer=Bytes()))
    sums = task.loss(random_logits, {}, batch, None, train=False)
    logits = np.asarray(random_logits({}, batch["tokens"]), np.float64)
    nats = correct = num_bytes = 0.0
    for row, place in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0)):
        scores, target = logits[row, place], batch["targets"][row, place]
        nats += np.log(np.exp(scores).sum()) - scores[target]
        correct += scores.argmax() == target
        num_bytes += target  # see Bytes
    np.testing.assert_allclose([sums.loss, sums.weight], [nats, 5], rtol=1e-6)
    np.testing.assert_allclose(sums.metrics["accuracy"], (correct, 5))
    np.testing.assert_allclose(sums.metrics["bits_per_byte"], (nats / math.log(2), num_bytes), rtol=1e-6)


def test_a_right_guess_past_the_end_is_no_success(batch):
    def always_padding(params, tokens, row_keys=None):
        return jnp.zeros((*tokens.shape, VOCAB_SIZE)).at[:, :, 0].set(1.0)

    task = CausalLM(TaskInputs(length=LENGTH))
    assert task.loss(always_padding, {}, batch, None, train=False).metrics["accuracy"] == (0, 5)


def test_without_a_tokenizer_bytes_are_unknown(batch):
    task = CausalLM(TaskInputs(length=LENGTH))
    assert set(task.loss(random_logits, {}, batch, None, train=False).metrics) == {"accuracy"}


def test_perplexity():
    task = CausalLM(TaskInputs(length=LENGTH))
    assert task.derived_metrics({"loss": 2.0}) == {"perplexity": math.exp(2.0)}
    assert math.isfinite(task.derived_metrics({"loss": 1e9})["perplexity"])
    assert math.isnan(task.derived_metrics({"loss": math.nan})["perplexity"])
