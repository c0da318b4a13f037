"""Task interface: preparation of records, batches, loss sums, metrics and predictions, and the task registry.

A task turns records into examples on the host, examples into batches, and the
output of a model into sums. The step adds the sums over microbatches and devices
and divides once, so a task never averages and never communicates.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxdp.arguments import check_registration
from jaxdp.data.labels import Labels
from jaxdp.metrics import LOSS, MetricSpec, Sums
from jaxdp.tasks.declaration import check_task_class
from jaxdp.typing import HostBatch, PyTree

Apply = Callable[..., Any]
"""apply(params, tokens, **options) -> logits."""


class LossSums(NamedTuple):
    """Sums over the valid positions of a batch, on one device.

    Attributes:
        loss: [] float32, sum of the objective, label smoothing and z-loss included.
        weight: [] float32, sum of the loss weights: the number of predictions that count.
        metrics: further (sum, weight) pairs of [] float32; empty while training.
        tokens: [] float32, number of tokens read, without padding; None: `weight`.
    """

    loss: jax.Array
    weight: jax.Array
    metrics: Sums
    tokens: jax.Array | None = None


class Summary(NamedTuple):
    """Metrics and report of a whole split.

    Attributes:
        metrics: values by name; NaN where a metric is undefined.
        report: plain JSON values of everything that is not a single number, such as curves.
    """

    metrics: dict[str, float]
    report: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """Arguments that a task is constructed from.

    Attributes:
        length: length of a sequence in tokens, as the model sees it.
        target_length: length of a target sequence of pairs; None: `length`.
        tokenizer: tokenizer of the data, see `jaxdp.data.tokenizers`; None for
            ready-made tokens, and while data is prepared.
        target_tokenizer: tokenizer of the targets; None: `tokenizer`.
        packing: value of `data.packing`: `cut` | `documents` | `none`; None: the task is only asked for its `packings`.
        label_smoothing: share of the target's probability spread over the vocabulary.
        z_loss: weight of log(Z)^2 in the objective.
        labels: labels of the training split, for tasks with `uses_labels`; None: not read yet.
        options: the task's own group of the configuration.
    """

    length: int
    target_length: int | None = None
    tokenizer: Any = None
    target_tokenizer: Any = None
    packing: str | None = "cut"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    labels: Labels | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """Interface of a task, on which the step, evaluation, data preparation and prediction rely.

    A task inherits from this class and its default values. Instances must be
    picklable: tokenizing workers receive `prepare`.

    Attributes:
        fields: fields of a record that `prepare` reads: `text`, `label`, `source`,
            `target`; `data.<field>_column` names the column of each.
        eos_fields: token arrays of an example that end with the eos token in prepared data.
        packings: supported values of `data.packing`, the default first.
        special_tokens: names of special tokens that the tokenizer must have.
        prepare_format: format number of the examples that `prepare` returns; part of the
            cache key, raised with every change of `prepare` that changes an example.
        prepared_with: plain JSON values that the result of `prepare` depends on, other
            than the record, the tokenizer and the code; part of the cache key.
        row_lengths: capacity of a sequence in tokens, eos included, for each ragged array
            of an example; for cut windows, without the extra token that is read.
        architectures: supported values of `model.architecture`.
        model_options: arguments of `jaxdp.model.model_config`: the head and its size.
        eval_outputs: names of the `outputs` that `summarize` needs; empty if the task
            has no `summarize`.
        metrics: declarations of the metrics that `loss` and `derived_metrics` return in
            an evaluation; one named "loss" replaces `jaxdp.metrics.LOSS`. A metric that
            is not declared is reported, but cannot be `eval.metric`.
        summary_metrics: declarations of the metrics that `summarize` returns.
        score_metrics: declarations of the metrics that `score` returns for generated
            texts; empty if there are none.
        can_augment: whether `data.augmentation` may change the input tokens, because the
            targets do not depend on them.
        prompt_end: text between a prompt and its continuation, as in training.
        end_before_text: position of the eos token before a text: `always`, so that a
            prompt begins with it; `between` the texts of a sequence, which may also begin
            inside a text; `never`: the first token of a text is not learned.
        uses_labels: whether the task needs the labels of the training split (`TaskInputs.labels`).
        generated_field: array of an example that the model generates, as a decoder
            does from a source, in `jaxdp predict` and in evaluations with `score`;
            empty if predictions come from `predictions`.
        start_id: id of the token before the first token of a target, for a task that packs
            pairs of texts; None: it packs none.
        num_predicted: positions of a sequence that the model computes logits for, for
            the FLOPs of a step; None: all.
        predict_fields: fields of a record that prediction needs; empty if the task does
            not support `jaxdp predict`.
        prediction_names: keys of a prediction; fields of the record with these names are
            passed through as `input_NAME`.
        protected_strings: substrings such as `[MASK]` that cleaning must not change in a
            record to predict.
    """

    fields: tuple[str, ...]
    eos_fields: tuple[str, ...]
    packings: tuple[str, ...]
    special_tokens: tuple[str, ...] = ()
    prepare_format: int = 1
    prepared_with: Mapping[str, Any] = {}
    row_lengths: Mapping[str, int]
    architectures: tuple[str, ...]
    model_options: Mapping[str, Any]
    eval_outputs: tuple[str, ...] = ()
    metrics: tuple[MetricSpec, ...] = ()
    summary_metrics: tuple[MetricSpec, ...] = ()
    score_metrics: tuple[MetricSpec, ...] = ()
    prompt_end: str = ""
    end_before_text: str = "between"
    predict_fields: tuple[str, ...] = ()
    prediction_names: tuple[str, ...] = ()
    protected_strings: tuple[str, ...] = ()
    can_augment: bool = True
    uses_labels: bool = False
    generated_field: str = ""
    start_id: int | None = None
    num_predicted: int | None = None

    def prepare(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """Converts a record into an example; deterministic, so that the example can be cached.

        Args:
            record: values of `fields`.
            tokenizer: tokenizer, or (source tokenizer, target tokenizer) where they differ.

        Raises:
            UserError: The record cannot be used; the message does not name its position.
        """
        ...

    def make_batch(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Converts padded examples `[rows, ...]` into the arrays `[rows, ...]` of a batch.

        A row with `num_tokens` 0 is padding and counts for nothing. Randomness
        (masking) may depend on (seed, step, row_ids) alone; `row_ids` `[rows] int32`
        are the indices of the examples in the global batch.
        """
        ...

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the arrays of `make_batch` for `rows` rows."""
        ...

    def loss(self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool) -> LossSums:
        """Sums the loss over the batch; `row_keys` `[rows]` switch dropout on."""
        ...

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Returns results `[rows, ...]` of each example, for metrics that are not sums and for predictions."""
        ...

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns evaluation metrics that are functions of the means; they replace means of the same name."""
        return {}

    def summarize(self, outputs: Mapping[str, np.ndarray]) -> Summary:
        """Computes metrics of a whole split that are not means over its examples.

        Args:
            outputs: arrays named in `eval_outputs`, `[rows of the split, ...]`, padding included.
        """
        raise NotImplementedError

    def score(self, texts: Sequence[str], references: Sequence[str]) -> Summary:
        """Compares generated texts with their references."""
        raise NotImplementedError

    def prepare_for_predict(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """Converts a record to predict into an example, as `prepare` does in training."""
        raise NotImplementedError

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Converts padded examples to predict into the arrays of a batch, without randomness."""
        raise NotImplementedError

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the predictions of `jaxdp predict` for each row, as plain JSON values.

        Args:
            outputs: results of `outputs`, `[rows, ...]`, padding included.
        """
        raise NotImplementedError


def declared_metrics(task: Task, *, scored: bool) -> dict[str, MetricSpec]:
    """Returns the declarations of a task's evaluation metrics by full name, the loss first.

    Args:
        task: The task.
        scored: Whether evaluations generate texts and score them.
    """
    specs = (LOSS, *task.metrics, *task.summary_metrics, *(task.score_metrics if scored else ()))
    return {spec.full_name: spec for spec in specs}


_FACTORIES: dict[str, Callable[[TaskInputs], Task]] = {}


def register_task(name: str, factory: Callable[[TaskInputs], Task]) -> None:
    """Registers a task: `config.task = name` builds it with `factory(TaskInputs(...))`.

    Raises:
        UserError: The name is not a string, or the factory is not callable; see also `check_task_class`.
    """
    check_registration("task", name, factory, "a class or function that makes a task from TaskInputs", ["inputs"])
    if isinstance(factory, type):
        check_task_class(name, factory, Task)
    _FACTORIES[name] = factory


def registered_tasks() -> dict[str, Callable[[TaskInputs], Task]]:
    """Returns all factories by task name."""
    return dict(_FACTORIES)
