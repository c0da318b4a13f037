"""Classification of all kinds: rows, losses against NumPy in float64, what is said of requests."""

import math
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tokenizer import LetterTokenizer

from jaxdp.errors import UserError
from jaxdp.tasks import Classification, LabelCensus, Labels, TaskInputs, pad_examples
from jaxdp.tasks.classification_options import ClassificationOptions, class_weights

LENGTH, CLASS, SEPARATOR = 6, 1, 2
TOKENIZER = LetterTokenizer(("[CLS]", "[SEP]"))
PLAIN = LetterTokenizer(())
LABELS = {
    "single_label": Labels(kind="single_label", num_records=8, names=("ale", "milk", "tea"), counts=(1, 2, 5)),
    "multi_label": Labels(kind="multi_label", num_records=8, names=("ale", "milk", "tea"), counts=(1, 2, 8)),
    "regression": Labels(kind="regression", num_records=8, mean=10.0, deviation=4.0),
}
VALUES = {
    "single_label": ["tea", "ale", "tea"],
    "multi_label": ["tea,ale", "", "milk"],
    "regression": ["12", 8.5, -1],
}
KINDS = sorted(LABELS)


def options(kind, **given):
    return {"kind": kind, "pooling": "mean", "class_weights": "none", "label_separator": ","} | given


def make_task(kind, tokenizer=PLAIN, length=LENGTH, label_smoothing=0.0, z_loss=0.0, **given):
    return Classification(
        TaskInputs(
            length=length, tokenizer=tokenizer, packing="none", labels=LABELS[kind],
            label_smoothing=label_smoothing, z_loss=z_loss, options=options(kind, **given),
        )
    )  # fmt: skip


def batch_of(task, kind, texts=("ab", "abcdef", "b"), num_rows=4):
    examples = [
        task.prepare({"text": text, "label": value}, PLAIN) for text, value in zip(texts, VALUES[kind], strict=True)
    ]
    rows, _ = pad_examples(task, examples, {}, num_rows)
    return task.make_batch(rows, 0, 0, np.arange(num_rows, dtype=np.int32))


@pytest.mark.parametrize(
    ("pooling", "tokenizer", "expected"),
    [
        ("first", TOKENIZER, [CLASS, 3, 4, SEPARATOR, 0, 0]),
        ("mean", TOKENIZER, [CLASS, 3, 4, SEPARATOR, 0, 0]),
        ("mean", PLAIN, [1, 2, 0, 0, 0, 0]),
        ("last", PLAIN, [1, 2, 0, 0, 0, 0]),
        ("last", TOKENIZER, [3, 4, 0, 0, 0, 0]),
    ],
)
def test_a_text_is_framed_as_its_model_knows_it(pooling, tokenizer, expected):
    task = make_task("single_label", tokenizer, pooling=pooling)
    assert task.special_tokens == (("[CLS]", "[SEP]") if pooling == "first" else ())
    rows, _ = pad_examples(task, [task.prepare_for_predict({"text": "ab"}, tokenizer)], {}, 2)
    batch = task.make_predict_batch(rows)
    assert batch["tokens"].tolist() == [expected, [0] * LENGTH]
    num_read = 4 if expected[0] == CLASS and tokenizer is TOKENIZER else 2 + (pooling == "last")
    assert batch["attention_mask"].sum(axis=1).tolist() == [num_read, 0]
    assert batch["loss_weights"].tolist() == [1, 0]


def test_labels_of_each_kind():
    assert batch_of(make_task("single_label"), "single_label")["labels"].tolist() == [2, 0, 2, 0]
    assert batch_of(make_task("multi_label"), "multi_label")["labels"].tolist() == [
        [1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0],
    ]  # fmt: skip
    assert batch_of(make_task("regression"), "regression")["labels"].tolist() == [0.5, -0.375, -2.75, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_preparing_depends_on(kind):
    task = make_task(kind)
    dtype = {"label_dtype": "float64"} if kind == "regression" else {}
    assert task.prepared_with == {"kind": kind, "separator": ",", "labels": list(LABELS[kind].names)} | dtype
    without_tokenizer = Classification(TaskInputs(length=LENGTH, labels=LABELS[kind], options=options(kind)))
    unpickled = pickle.loads(pickle.dumps(without_tokenizer))
    example = unpickled.prepare({"text": "ab", "label": VALUES[kind][0]}, PLAIN)
    assert set(example) == {"tokens", "labels" if kind == "multi_label" else "label"}
    num_outputs = 1 if kind == "regression" else 3
    assert task.model_options == {"head": "classification", "num_labels": num_outputs, "pooling": "mean"}


@pytest.mark.parametrize(
    ("kind", "record", "problem"),
    [
        ("single_label", {"text": "ab", "label": "wine"}, "label 'wine' is on no record of the training split"),
        ("multi_label", {"text": "ab", "label": "tea,wine"}, "label 'wine' is on no record"),
        ("regression", {"text": "ab", "label": "tea"}, "expected a finite number"),
        ("regression", {"text": "ab", "label": math.nan}, "the label is nan, expected a finite number"),
        ("regression", {"text": "ab", "label": "-inf"}, "the label is '-inf', expected a finite number"),
        (
            "regression",
            {"text": "ab", "label": 10**400},
            r"the label is 10+\.\.\. \(401 characters\), expected a finite number",
        ),
        ("single_label", {"text": "", "label": "tea"}, "the text is empty, expected some text"),
        ("single_label", {"text": "ab", "label": " "}, "the label is empty"),
    ],
)
def test_a_record_that_cannot_be_learned_is_refused(kind, record, problem):
    with pytest.raises(UserError, match=problem):
        make_task(kind).prepare(record, PLAIN)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"kind": "binary"}, r"classification\.kind='binary' is unknown; choose one of: single_label, "),
        ({"pooling": "max"}, r"classification\.pooling='max' is unknown; choose one of: first, "),
        ({"label_separator": ""}, r"classification\.label_separator is empty"),
        ({"kind": "regression", "class_weights": "balanced"}, r"does not apply to classification\.kind=regression"),
    ],
)
def test_options_out_of_range_are_refused(given, problem):
    with pytest.raises(UserError, match=problem):
        ClassificationOptions(**options("single_label") | given)


def scores_of(kind):
    random = np.random.default_rng(5)
    scores = random.normal(0, 2, (4, 1 if kind == "regression" else 3)).astype(np.float32)

    def apply(params, tokens, *, attention_mask, row_keys=None):
        return jnp.asarray(scores)

    return apply, scores.astype(np.float64)


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


@pytest.mark.parametrize("weights", ["none", "balanced", "1,0.5,2"])
def test_the_loss_of_single_labels(weights):
    apply, scores = scores_of("single_label")
    task = make_task("single_label", class_weights=weights, label_smoothing=0.1, z_loss=0.01)
    batch = batch_of(task, "single_label")
    each = {"none": [1, 1, 1], "balanced": [8 / 3, 4 / 3, 8 / 15], "1,0.5,2": [1, 0.5, 2]}[weights]
    objective = nats = correct = 0.0
    for row, label in enumerate([2, 0, 2]):
        logs = log_softmax(scores[row])
        wanted = np.full(3, 0.1 / 3)
        wanted[label] += 0.9
        objective += each[label] * (0.01 * np.log(np.exp(scores[row]).sum()) ** 2 - wanted @ logs)
        nats -= logs[label]
        correct += scores[row].argmax() == label
    trained = task.loss(apply, {}, batch, None, train=True)
    np.testing.assert_allclose([trained.loss, trained.weight, trained.tokens], [objective, 3, 2 + 6 + 1], rtol=1e-6)
    measured = task.loss(apply, {}, batch, None, train=False)
    np.testing.assert_allclose([measured.loss, measured.weight], [nats, 3], rtol=1e-6)
    assert measured.metrics == {"accuracy": (correct, 3)} and trained.metrics == {}
    assert task.derived_metrics({"loss": 1.0}) == {}


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_loss_of_several_labels(weights):
    apply, scores = scores_of("multi_label")
    task = make_task("multi_label", class_weights=weights, label_smoothing=0.1)
    batch = batch_of(task, "multi_label")
    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    probabilities = 1 / (1 + np.exp(-scores[:3]))
    positive = {"none": [1, 1, 1], "balanced": [7, 3, 1 / 8]}[weights]  # of 8 records all have the third
    smooth = 0.9 * truth + 0.05
    objective = -(positive * smooth * np.log(probabilities) + (1 - smooth) * np.log(1 - probabilities)).mean(1).sum()
    nats = -np.where(truth, np.log(probabilities), np.log(1 - probabilities)).mean(1).sum()
    correct = ((probabilities > 0.5) == truth).all(1).sum()
    np.testing.assert_allclose(task.loss(apply, {}, batch, None, train=True).loss, objective, rtol=1e-5)
    measured = task.loss(apply, {}, batch, None, train=False)
    np.testing.assert_allclose([measured.loss, measured.weight], [nats, 3], rtol=1e-5)
    assert measured.metrics == {"accuracy": (correct, 3)}


def test_the_loss_of_numbers():
    apply, scores = scores_of("regression")
    task = make_task("regression")
    batch = batch_of(task, "regression")
    values = scores[:3, 0] * 4 + 10
    errors = values - np.array([12, 8.5, -1])
    for train in (True, False):
        sums = task.loss(apply, {}, batch, None, train=train)
        np.testing.assert_allclose([sums.loss, sums.weight], [(errors**2).sum() / 16, 3], rtol=1e-5)
    total, weight = sums.metrics["mean_absolute_error"]
    derived = task.derived_metrics({"loss": (errors**2).mean() / 16, "mean_absolute_error": float(total / weight)})
    assert derived["mean_absolute_error"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert derived["root_mean_squared_error"] == pytest.approx(math.sqrt((errors**2).mean()))


@pytest.mark.parametrize(
    "numbers",
    [
        1.7e9 + np.arange(8.0),  # Unix times, of which float32 has one each 128 seconds
        1.7e18 + 2**20 * np.arange(8.0),  # the same in nanoseconds
        1e150 * np.array([1.0, 1.5, 2, 1, 1, 1, 1, 3]),  # beyond float32 altogether
        1e-100 * np.array([1.0, 1.5, 2, 1, 1, 1, 1, 3]),
    ],
)
def test_numbers_that_float32_cannot_tell_apart(numbers):
    census = LabelCensus("regression", ",")
    for number in numbers.tolist():
        census.add(number)
    labels = census.labels()
    task = Classification(
        TaskInputs(length=LENGTH, tokenizer=PLAIN, packing="none", labels=labels, options=options("regression"))
    )
    examples = [task.prepare({"text": "ab", "label": number}, PLAIN) for number in numbers.tolist()]
    rows, _ = pad_examples(task, examples, {}, len(numbers))
    batch = task.make_batch(rows, 0, 0, np.arange(len(numbers), dtype=np.int32))
    np.testing.assert_allclose(batch["labels"], (numbers - numbers.mean()) / numbers.std(), rtol=1e-5)

    def apply(params, tokens, *, attention_mask, row_keys=None):
        return jnp.asarray(batch["labels"] + 0.25)[:, None]  # wrong by a quarter of the deviation

    outputs = {name: np.asarray(array) for name, array in task.outputs(apply, {}, batch).items()}
    expected = numbers + numbers.std() / 4
    np.testing.assert_allclose([answer["label"] for answer in task.predictions(outputs)], expected, rtol=1e-7)
    np.testing.assert_allclose(
        np.array([answer["label"] for answer in task.predictions(outputs)]) - numbers, numbers.std() / 4, rtol=1e-2
    )
    metrics, report = task.summarize(outputs)
    assert metrics["r2"] == pytest.approx(1 - 1 / 16, rel=1e-3) and metrics["correlation"] == pytest.approx(1)
    assert report["mean_absolute_error"] == pytest.approx(numbers.std() / 4, rel=1e-3)
    total, weight = task.loss(apply, {}, batch, None, train=False).metrics["mean_absolute_error"]
    derived = task.derived_metrics({"loss": 1 / 16, "mean_absolute_error": float(total / weight)})
    assert list(derived.values()) == pytest.approx([numbers.std() / 4] * 2, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_rows_and_of_requests(kind):
    apply, scores = scores_of(kind)
    task = make_task(kind)
    batch = batch_of(task, kind)
    outputs = {name: np.asarray(array) for name, array in task.outputs(apply, {}, batch).items()}
    assert set(outputs) == set(task.eval_outputs)
    expected = {
        "single_label": np.exp(log_softmax(scores)),
        "multi_label": 1 / (1 + np.exp(-scores)),
        "regression": scores[:, 0],
    }[kind]
    np.testing.assert_allclose(outputs[task.eval_outputs[0]], expected, rtol=1e-5)
    np.testing.assert_array_equal(outputs["labels"], batch["labels"])
    answers = task.predictions(outputs)
    assert len(answers) == 4
    if kind == "regression":
        assert answers[1] == {"label": pytest.approx(expected[1] * 4 + 10, rel=1e-5)}
        return
    names = LABELS[kind].names
    assert answers[1]["probabilities"] == {
        name: pytest.approx(value, rel=1e-5) for name, value in zip(names, expected[1], strict=True)
    }
    if kind == "single_label":
        assert answers[1]["label"] == names[expected[1].argmax()]
    else:
        assert answers[1]["label"] == [name for name, value in zip(names, expected[1], strict=True) if value > 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_not_finite_are_neither_right_nor_a_label(kind):
    _, scores = scores_of(kind)
    task = make_task(kind)
    batch = batch_of(task, kind)
    for row, is_read in ((1, True), (3, False)):  # the last row is padding
        spoiled = scores.astype(np.float32)
        spoiled[row, 0] = math.nan

        def apply(params, tokens, *, attention_mask, row_keys=None, spoiled=spoiled):
            return jnp.asarray(spoiled)

        [(total, weight)] = task.loss(apply, {}, batch, None, train=False).metrics.values()
        assert weight == 3
        assert math.isnan(total) == (is_read or kind == "regression")
        answers = task.predictions(task.outputs(apply, {}, batch))
        assert [answer["label"] is None for answer in answers] == [number == row for number in range(4)]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_padding_are_no_part_of_a_summary(kind):
    apply, _ = scores_of(kind)
    task = make_task(kind)
    outputs = {name: np.asarray(array) for name, array in task.outputs(apply, {}, batch_of(task, kind)).items()}
    summary = task.summarize(outputs)
    assert list(summary.metrics) == [spec.name for spec in task.summary_metrics]
    assert summary.report["num_examples"] == 3
    again = task.summarize({name: array[[3, 2, 0, 3, 1]] for name, array in outputs.items()})
    assert again.metrics == pytest.approx(summary.metrics, nan_ok=True)


def test_weights_are_checked_and_have_a_mean_of_one():
    balanced = ClassificationOptions(**options("single_label", class_weights="balanced"))
    weights = class_weights(balanced, LABELS["single_label"])
    assert weights.dtype == np.float32 and weights @ [1, 2, 5] == pytest.approx(8)
    for given in ("1,2", "a,b,c", "1,2,-1", "0,0,0", "1,nan,1", ""):
        with pytest.raises(
            UserError, match=r"expected none, balanced or 3 comma-separated numbers .* for ale, milk, tea"
        ):
            make_task("single_label", class_weights=given)


def test_a_row_needs_room_for_a_token():
    with pytest.raises(UserError, match=r"data\.length=2 is too short: .* and 2 special tokens"):
        make_task("single_label", TOKENIZER, length=2, pooling="first")
