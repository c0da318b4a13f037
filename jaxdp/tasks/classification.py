"""Text classification and regression task: single-label, multi-label or numeric targets."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.data.labels import Labels, label_number, label_text, label_texts
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.model.cross_entropy import cross_entropy_sums
from jaxdp.tasks.classification_metrics import (
    MEAN_METRICS,
    SUMMARY_METRICS,
    THRESHOLD,
    summarize_finite,
    summarize_multi_label,
    summarize_regression,
    summarize_single_label,
)
from jaxdp.tasks.classification_options import ClassificationOptions, class_weights
from jaxdp.tasks.empty_texts import cure, reason
from jaxdp.tasks.framing import BERT_FRAME, CLASS, SEPARATOR, encoder_frame, frame
from jaxdp.tasks.losses import binary_cross_entropy
from jaxdp.tasks.task import Apply, LossSums, Summary, Task, TaskInputs
from jaxdp.typing import HostBatch, PyTree


class Classification(Task):
    """Classification of one text a sequence.

    An encoder reads `[CLS]`, text and `[SEP]`, or `<s>`, text and `</s>`, where its tokenizer
    has these tokens, as in pre-training; with pooling `last` the model reads the text and eos, as a decoder
    does in pre-training.
    """

    fields = ("text", "label")
    eos_fields = ()
    packings = ("none",)
    architectures = ("encoder", "decoder")
    uses_labels = True
    predict_fields = ("text",)

    def __init__(self, inputs: TaskInputs):
        self._options = options = ClassificationOptions(**inputs.options)
        self._labels = inputs.labels
        self._length, self._label_smoothing, self._z_loss = inputs.length, inputs.label_smoothing, inputs.z_loss
        self.special_tokens = (CLASS, SEPARATOR) if options.pooling == "first" else ()
        self._before, self._after = (), ()
        if inputs.tokenizer is not None:
            self._before, self._after = _frame_ids(inputs.tokenizer, options.pooling)
        self._num_text = inputs.length - len(self._before) - len(self._after)
        if self._num_text < 1:
            raise UserError(
                f"data.length={inputs.length} is too short: expected room for a token and "
                f"{len(self._before) + len(self._after)} special tokens."
            )
        self.row_lengths = {"tokens": self._num_text}
        self.prepared_with = {"kind": options.kind, "separator": options.label_separator}
        if options.kind == "regression":
            self.prepared_with["label_dtype"] = "float64"  # earlier versions cached float32
        self.eval_outputs = ("values" if options.kind == "regression" else "probabilities", "labels", "weights")
        self.metrics, self.summary_metrics = MEAN_METRICS[options.kind], SUMMARY_METRICS[options.kind]
        self.prediction_names = ("label",) if options.kind == "regression" else ("label", "probabilities")
        if inputs.labels is not None:
            self.prepared_with["labels"] = list(inputs.labels.names)
            self._num_outputs = len(inputs.labels.names) or 1
            self.model_options = {
                "head": "classification", "num_labels": self._num_outputs, "pooling": options.pooling,
            }  # fmt: skip
            self._class_weights = class_weights(options, inputs.labels)
            if options.kind == "multi_label":
                self.row_lengths["labels"] = self._num_outputs

    @property
    def _known_labels(self) -> Labels:
        """Labels of the training split, once they are read."""
        if self._labels is None:
            raise ValueError("the labels of the training split are not read yet")
        return self._labels

    def prepare(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """Tokenizes a record {"text", "label"} and encodes its label.

        Returns:
            {"tokens": [num_tokens] int32} and, by kind, single_label: {"label": [] int32};
            multi_label: {"labels": [num_labels] int32}; regression: {"label": [] float64}.

        Raises:
            UserError: The text is empty, or the label is unknown.
        """
        value = record["label"]
        try:
            example = self.prepare_for_predict(record, tokenizer)
        except UserError as error:
            raise UserError(f"{str(error).removesuffix('.')}; {cure(record['text'])}.") from error
        if self._options.kind == "regression":
            return example | {"label": np.array(label_number(value), np.float64)}
        if self._options.kind == "single_label":
            return example | {"label": np.array(self._known_labels.number(label_text(value)), np.int32)}
        labels, names = self._known_labels, label_texts(value, self._options.label_separator)
        return example | {"labels": np.array([labels.number(name) for name in names], np.int32)}

    def prepare_for_predict(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """Returns {"tokens": [num_tokens] int32} of {"text"}.

        Raises:
            UserError: The text is empty.
        """
        tokens = tokenizer.encode(record["text"])
        if not len(tokens):
            raise UserError(f"{reason('text', record['text'])}.")
        return {"tokens": tokens}

    def make_batch(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Builds tokens, attention mask, labels and weights, without randomness.

        Numbers are standardised here, in float64: in float32, numbers that are large
        compared with their spread, such as Unix times, would all become equal.

        Args:
            examples: {"tokens": [rows, row_lengths["tokens"]] int32, "num_tokens":
                [rows] int32, "label": [rows]}; for multi_label "labels": [rows,
                num_labels] int32 and "num_labels": [rows] int32 instead.
            seed: unused.
            step: unused.
            row_ids: [rows] int32; only its length is used.
        """
        batch = self.make_predict_batch(examples)
        if self._options.kind == "multi_label":
            labels = np.zeros((len(row_ids), self._num_outputs), np.float32)
            is_label = np.arange(self._num_outputs) < examples["num_labels"][:, None]
            row, place = np.nonzero(is_label)
            labels[row, examples["labels"][row, place]] = 1.0
            return batch | {"labels": labels}
        if self._options.kind == "regression":
            standardised = np.where(examples["num_tokens"] > 0, self._known_labels.standardised(examples["label"]), 0)
            return batch | {"labels": standardised.astype(np.float32)}
        return batch | {"labels": examples["label"].astype(batch["labels"].dtype)}

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Builds the same arrays with labels of 0."""
        num_tokens = examples["num_tokens"]
        tokens, is_read = frame(examples["tokens"], num_tokens, num_tokens > 0, self._before, self._after)
        labels = self.batch_spec(len(num_tokens))["labels"]
        return {
            "tokens": tokens,
            "attention_mask": is_read,
            "labels": np.zeros(labels.shape, labels.dtype),
            "loss_weights": (num_tokens > 0).astype(np.float32),
        }

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch.

        {"tokens" int32, "attention_mask" bool: [rows, length], "loss_weights": [rows]
        float32} and "labels", by kind: single_label: [rows] int32; multi_label: [rows,
        num_labels] float32, 1 for each label of the example; regression: [rows]
        float32, standardised.
        """
        shape, dtype = {
            "single_label": ((rows,), jnp.int32),
            "multi_label": ((rows, self._num_outputs), jnp.float32),
            "regression": ((rows,), jnp.float32),
        }[self._options.kind]
        return {
            "tokens": jax.ShapeDtypeStruct((rows, self._length), jnp.int32),
            "attention_mask": jax.ShapeDtypeStruct((rows, self._length), jnp.bool_),
            "labels": jax.ShapeDtypeStruct(shape, dtype),
            "loss_weights": jax.ShapeDtypeStruct((rows,), jnp.float32),
        }

    def loss(self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool) -> LossSums:
        """Sums the loss; in evaluation without smoothing and class weights, with metrics.

        multi_label: the mean over the labels of their binary cross-entropies.
        regression: the squared error in units of the standard deviation of the training
        labels, like the absolute error here; see `derived_metrics`.
        """
        scores = _scores(apply, params, batch, row_keys=row_keys)
        weights = batch["loss_weights"]
        weight, read = jnp.sum(weights), jnp.sum(batch["attention_mask"].astype(jnp.float32))
        losses = {
            "single_label": self._single_label_loss,
            "multi_label": self._multi_label_loss,
            "regression": self._regression_loss,
        }
        loss, metrics = losses[self._options.kind](scores, batch["labels"], weights, train)
        metrics = {} if train else {name: (total, weight) for name, total in metrics.items()}
        return LossSums(loss, weight, metrics, read)

    def _single_label_loss(self, scores, labels, weights, train):
        if train:
            weighted = weights * jnp.asarray(self._class_weights)[labels]
            smoothing = {"label_smoothing": self._label_smoothing, "z_loss": self._z_loss}
            return cross_entropy_sums(scores, labels, weighted, **smoothing)[0], {}
        correct = _count_right(jnp.argmax(scores, axis=-1) == labels, scores, weights)
        return cross_entropy_sums(scores, labels, weights)[1], {"accuracy": correct}

    def _multi_label_loss(self, scores, labels, weights, train):
        options = {}
        if train:
            positive_weights = jnp.asarray(self._class_weights)[None, :]
            options = {"positive_weights": positive_weights, "label_smoothing": self._label_smoothing}
        loss = jnp.sum(jnp.mean(binary_cross_entropy(scores, labels, **options), axis=-1) * weights)
        is_right = jnp.all((scores > 0) == (labels > 0), axis=-1)  # a probability of 1/2 is a score of 0
        return loss, {"accuracy": _count_right(is_right, scores, weights)}

    def _regression_loss(self, scores, labels, weights, train):
        errors = scores[:, 0] - labels
        absolute = jnp.sum(jnp.abs(errors) * weights)
        return jnp.sum(jnp.square(errors) * weights), {"mean_absolute_error": absolute}

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns, for regression, the mean absolute and root mean squared error in the unit of the labels."""
        if self._options.kind != "regression":
            return {}
        deviation = self._known_labels.deviation
        return {
            "mean_absolute_error": means["mean_absolute_error"] * deviation,
            "root_mean_squared_error": math.sqrt(means["loss"]) * deviation,
        }

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Returns the outputs of the model and the true labels of each example.

        Returns:
            {"probabilities": [rows, num_labels] float32}, or for regression {"values":
            [rows] float32, standardised}; "labels" of the batch, and its "loss_weights" as "weights".
        """
        scores = _scores(apply, params, batch)
        truth = {"labels": batch["labels"], "weights": batch["loss_weights"]}
        if self._options.kind == "regression":
            return truth | {"values": scores[:, 0]}
        single = self._options.kind == "single_label"
        return truth | {"probabilities": jax.nn.softmax(scores, axis=-1) if single else jax.nn.sigmoid(scores)}

    def summarize(self, outputs: Mapping[str, np.ndarray]) -> Summary:
        """Computes all metrics of a split; see `jaxdp.tasks.classification_metrics`."""
        is_row = outputs["weights"] > 0
        found, truth = outputs[self.eval_outputs[0]][is_row], outputs["labels"][is_row]
        if self._options.kind == "regression":
            in_unit = self._known_labels.in_unit_of_labels
            return summarize_finite(summarize_regression, in_unit(found), in_unit(truth))
        summarize = summarize_single_label if self._options.kind == "single_label" else summarize_multi_label
        return summarize_finite(functools.partial(summarize, names=self._known_labels.names), found, truth)

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"label", "probabilities": {label: probability}} for each row.

        For multi_label, "label" is the list of labels with a probability above 1/2; for
        regression it is a float64 number, without probabilities. It is None where the
        output is not finite.
        """
        if self._options.kind == "regression":
            values = self._known_labels.in_unit_of_labels(outputs["values"]).tolist()
            return nullify_non_finite([{"label": value} for value in values])
        answers, names = [], self._known_labels.names
        for probabilities in outputs["probabilities"]:
            named = dict(zip(names, probabilities.tolist(), strict=True))
            likely: Any = [name for name, value in named.items() if value > THRESHOLD]
            if self._options.kind == "single_label":
                likely = names[int(np.argmax(probabilities))]
            if not np.isfinite(probabilities).all():
                likely = None
            answers.append({"label": likely, "probabilities": named})
        return answers


def _frame_ids(tokenizer, pooling: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids before and after each text."""
    if pooling == "last":
        return (), (tokenizer.eos_id,)
    names = encoder_frame(tokenizer.special_ids) or (BERT_FRAME if pooling == "first" else None)
    return ((), ()) if names is None else ((tokenizer.special_id(names.before),), (tokenizer.special_id(names.after),))


def _count_right(is_right: jax.Array, scores: jax.Array, weights: jax.Array) -> jax.Array:
    """Sums the weights of correct rows, [] float32; NaN where counted scores `[rows, num_labels]` are not finite.

    Comparisons with NaN return a result, so NaN has to be propagated explicitly.
    """
    is_known = jnp.all(jnp.isfinite(scores), axis=-1) | (weights == 0)
    return jnp.sum(jnp.where(is_known, is_right * weights, jnp.nan))


def _scores(apply: Apply, params: PyTree, batch: PyTree, **options) -> jax.Array:
    """Returns the logits `[rows, num_labels] float32`."""
    return apply(params, batch["tokens"], attention_mask=batch["attention_mask"], **options)
