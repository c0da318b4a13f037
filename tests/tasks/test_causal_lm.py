"""Next-token prediction: which token is the target of which, and what is measured."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tasks import with_output_layer
from tiny_tokenizer import LetterTokenizer

from jaxdp.errors import UserError
from jaxdp.tasks import CausalLM, TaskInputs, pad_examples

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


def no_preference(params, tokens, row_keys=None):
    return jnp.zeros((*tokens.shape, 28))


def test_evaluation_is_pure_and_training_is_regularised(batch):
    plain = CausalLM(TaskInputs(length=LENGTH))
    strict = CausalLM(TaskInputs(length=LENGTH, label_smoothing=0.2, z_loss=0.1))
    pure = plain.loss(with_output_layer(random_logits), {}, batch, None, train=True).loss
    assert strict.loss(with_output_layer(random_logits), {}, batch, None, train=False).loss == pure
    assert strict.loss(with_output_layer(random_logits), {}, batch, None, train=True).loss > pure
    assert strict.loss(with_output_layer(random_logits), {}, batch, None, train=True).metrics == {}


def test_metrics_of_an_evaluation(batch):
    task = CausalLM(TaskInputs(length=LENGTH, tokenizer=Bytes()))
    sums = task.loss(with_output_layer(random_logits), {}, batch, None, train=False)
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
    assert task.loss(with_output_layer(always_padding), {}, batch, None, train=False).metrics["accuracy"] == (0, 5)


def test_without_a_tokenizer_bytes_are_unknown(batch):
    task = CausalLM(TaskInputs(length=LENGTH))
    assert set(task.loss(with_output_layer(random_logits), {}, batch, None, train=False).metrics) == {"accuracy"}


def test_perplexity():
    task = CausalLM(TaskInputs(length=LENGTH))
    assert task.derived_metrics({"loss": 2.0}) == {"perplexity": math.exp(2.0)}
    assert math.isfinite(task.derived_metrics({"loss": 1e9})["perplexity"])
    assert math.isnan(task.derived_metrics({"loss": math.nan})["perplexity"])


def completion_task(packing="none", length=12):
    options = {"completion_only": True, "separator": " "}
    return CausalLM(TaskInputs(length=length, packing=packing, options=options))


def test_a_completion_is_learned_and_what_comes_before_is_read():
    task, tokenizer = completion_task(), LetterTokenizer(())
    assert (task.fields, task.eos_fields, task.packings) == (("source", "target"), (), ("none", "documents"))
    examples = [
        task.prepare({"source": "ab", "target": "cde"}, tokenizer),
        task.prepare({"source": "", "target": "z"}, tokenizer),
    ]
    assert examples[0]["tokens"].tolist() == [1, 2, 27, 3, 4, 5, 0]
    assert examples[0]["loss_mask"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    rows, num_cut = pad_examples(task, examples, {}, 3)
    batch = task.make_batch(rows, 0, 0, ROWS)
    assert num_cut == 0 and batch.keys() == task.batch_spec(3).keys()
    learned = [batch["targets"][row][batch["loss_weights"][row] > 0].tolist() for row in range(3)]
    assert learned == [[3, 4, 5, 0], [26, 0], []]
    sums = task.loss(with_output_layer(no_preference), {}, batch, None, train=True)
    assert (sums.weight, sums.tokens) == (6, 6 + 2)
    np.testing.assert_allclose(sums.loss, 6 * math.log(28), rtol=1e-6)


def test_packed_completions_bring_the_mask_of_their_targets():
    task = completion_task("documents", length=4)
    names = ("tokens", "targets", "segment_ids", "positions", "loss_mask")
    rows = {name: np.arange(8, dtype=np.int32).reshape(2, 4) for name in names}
    rows["loss_mask"] = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], np.int32)
    batch = task.make_batch(rows | {"num_tokens": np.array([3, 4], np.int32)}, 0, 0, ROWS[:2])
    assert batch["loss_weights"].tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert batch["num_tokens"].tolist() == [3, 4] and batch["targets"] is rows["targets"]


def test_an_empty_completion_is_refused():
    with pytest.raises(UserError, match="the target is empty"):
        completion_task().prepare({"source": "ab", "target": ""}, LetterTokenizer(()))


def test_the_separator_is_a_part_of_what_is_prepared():
    options = {"completion_only": True, "separator": "!"}
    assert CausalLM(TaskInputs(length=4, options=options)).prepared_with == {"separator": "!"}
    assert CausalLM(TaskInputs(length=4)).prepared_with == {}


def test_a_single_document_is_a_window_of_its_own():
    task, tokenizer = CausalLM(TaskInputs(length=LENGTH, packing="none")), LetterTokenizer(())
    rows, num_cut = pad_examples(
        task, [task.prepare({"text": text}, tokenizer) for text in ("ab", "abcdefg")], {"tokens": 0}, 3
    )
    batch = task.make_batch(rows, 0, 0, ROWS)
    assert num_cut == 1 and rows["num_tokens"].tolist() == [3, 5, 0]
    assert batch["tokens"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]]
    assert batch["targets"].tolist() == [[2, 0, 0, 0], [2, 3, 4, 5], [0, 0, 0, 0]]
    assert batch["loss_weights"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
