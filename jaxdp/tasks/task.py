"""What a task is: everything that the loop and the step must not know.

A task turns records into rows on the host, rows into batches, and a model's
output into sums. The step adds the sums over microbatches and devices and
divides once, so a task never averages and never communicates.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxdp.data.labels import Labels
from jaxdp.errors import UserError
from jaxdp.metrics import LOSS, MetricSpec, Sums
from jaxdp.typing import HostBatch, PyTree

Apply = Callable[..., Any]
"""apply(params, tokens, **options) -> logits: the model without its class."""


class LossSums(NamedTuple):
    """Sums over the valid positions of some rows, on one device.

    Attributes:
        loss: [] float32, sum of the objective, label smoothing and z-loss included.
        weight: [] float32, sum of the loss weights: the number of predictions that count.
        metrics: further (sum, weight) pairs of [] float32; empty while training.
        tokens: [] float32, tokens that were read, without padding; None: `weight`.
    """

    loss: jax.Array
    weight: jax.Array
    metrics: Sums
    tokens: jax.Array | None = None


class Summary(NamedTuple):
    """What the outputs of a whole split come to.

    Attributes:
        metrics: by name; NaN where one is undefined.
        report: everything that is no single number, such as curves: plain JSON values.
    """

    metrics: dict[str, float]
    report: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """What a task is built from.

    Attributes:
        length: tokens of a row that the model sees.
        target_length: the same of the target of a pair; None: `length`.
        tokenizer: see `jaxdp.data.tokenizers`; None for ready-made tokens, and while
            data is prepared.
        target_tokenizer: of the target, where it has its own; None: `tokenizer`.
        packing: what a row is: `cut` | `documents` | `none`, as `data.packing` says.
        label_smoothing: share of the target's probability spread over the vocabulary.
        z_loss: weight of log(Z)^2 in the objective.
        labels: of labelled data, found in the training part; None: not read yet.
        options: the task's own group of the configuration.
    """

    length: int
    target_length: int | None = None
    tokenizer: Any = None
    target_tokenizer: Any = None
    packing: str = "cut"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    labels: Labels | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """The interface that `jaxdp.step`, `evaluation` and `experiment` rely on.

    A task inherits from it, and so has the values below where it gives no others.
    An instance can be pickled: workers that tokenize get its `prepare`.

    Attributes:
        fields: what `prepare` reads of a record: `text`, `label`, `source`, `target`;
            `data.<field>_column` says which column of the source that is.
        eos_fields: arrays of an example that are texts by themselves: end of text
            follows each of them in the prepared data.
        packings: the values of `data.packing` that it can read, its default first.
        special_tokens: names of special tokens that its tokenizer must have.
        prepare_format: number of what `prepare` makes of the same record; part of the key of
            the cache, to be raised with every change of `prepare` that changes an example.
        prepared_with: what the result of `prepare` depends on beside the record, the
            tokenizer and the code: plain JSON values, part of the key of the cache.
        row_lengths: places of a row, end of text included, for each ragged array of
            an example; of a cut window, without the token that it reads beyond.
        architectures: kinds of model that can learn it (`model.architecture`).
        model_options: what it asks of `jaxdp.model.model_config`: the head and its size.
        eval_outputs: which `outputs` of a whole split `summarize` needs; (): it has none.
        metrics: declarations of the metrics that `loss` and `derived_metrics` return in
            an evaluation; one named "loss" replaces `jaxdp.metrics.LOSS`. A metric that
            is not declared is reported, but cannot be `eval.metric`.
        summary_metrics: declarations of the metrics that `summarize` returns.
        score_metrics: declarations of the metrics that `score` returns for generated
            texts; empty if there are none.
        can_augment: whether what is read may be changed at random while what is learned stays.
        prompt_end: what follows a prompt before its continuation, as it did in training.
        end_before_text: where a row has end of text before the first token of a text:
            `always`, so that a prompt begins with it; `between`: between the texts of a
            row, which may also begin inside a text; `never`: the first token of a text is
            not learned.
        uses_labels: whether it needs the labels of the training split (`TaskInputs.labels`).
        generated_field: array of an example that the model generates, as a decoder
            does from a source, in `jaxdp predict` and in evaluations with `score`;
            empty if predictions come from `predictions`.
        num_predicted: positions of a sequence that the model computes logits for, for
            the FLOPs of a step; None: all.
        predict_fields: what `prepare_for_predict` reads of a record; (): `predictions` has none to give.
        prediction_names: keys of what `predictions` gives; a record's own fields of these names are passed through under another.
        protected_strings: texts in a request that say something to `prepare_for_predict`: cleaning, made
            for what is around them, must leave them as they are.
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
    num_predicted: int | None = None

    def prepare(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """One source record -> one example; deterministic, so that it can be cached.

        Args:
            record: the value of each of `fields`.
            tokenizer: or (source tokenizer, target tokenizer) where they differ.

        Raises:
            UserError: what is wrong with the record, without where it is.
        """

    def make_batch(
        self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Gathered examples `[rows, ...]` -> named arrays `[rows, ...]`.

        A row with `num_tokens` 0 is padding and counts for nothing. Randomness
        (masking) may depend on (seed, step, row_ids) alone; `row_ids` `[rows] int32`
        are the rows' numbers in the global batch.
        """

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of what `make_batch` returns for `rows` rows."""

    def loss(
        self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool
    ) -> LossSums:
        """Sums over the batch; `row_keys` `[rows]` switch dropout on."""

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Per-row results `[rows, ...]` for metrics that are no sums."""

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Evaluation metrics that are functions of the means; one of the name of a mean replaces it."""
        return {}

    def summarize(self, outputs: Mapping[str, np.ndarray]) -> Summary:
        """Metrics of a whole split that are no means over its rows.

        Args:
            outputs: the `eval_outputs` ones, `[rows of the split, ...]`; padding may be among them.
        """
        raise NotImplementedError

    def score(self, texts: Sequence[str], references: Sequence[str]) -> Summary:
        """Metrics of texts that the model wrote against what was expected."""
        raise NotImplementedError

    def prepare_for_predict(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """A record of which the answer is wanted -> one example, as `prepare` gives it."""
        raise NotImplementedError

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Requests `[rows, ...]` -> the arrays of a batch; nothing in it is random."""
        raise NotImplementedError

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """What `jaxdp predict` says of each row: plain JSON values.

        Args:
            outputs: what `outputs` gave for requests, `[rows, ...]`; padding among them
                is answered too.
        """
        raise NotImplementedError


def declared_metrics(task: Task, *, scored: bool) -> dict[str, MetricSpec]:
    """Returns the declarations of a task's evaluation metrics by full name, the loss first.

    Args:
        task: The task.
        scored: Whether evaluations generate texts and score them.

    Raises:
        UserError: A declaration is no `MetricSpec`, or of another group than "eval".
    """
    specs = (LOSS, *task.metrics, *task.summary_metrics, *(task.score_metrics if scored else ()))
    for spec in specs:
        if not isinstance(spec, MetricSpec) or spec.group != LOSS.group:
            raise UserError(
                f"{type(task).__name__} declares the metric {spec!r}; expected a jaxdp.tasks.MetricSpec of the group "
                f"{LOSS.group!r}, such as MetricSpec('accuracy', higher_is_better=True)."
            )
    return {spec.full_name: spec for spec in specs}


_FACTORIES: dict[str, Callable[[TaskInputs], Task]] = {}


def register_task(name: str, factory: Callable[[TaskInputs], Task]) -> None:
    """Makes `config.task = name` build its task with `factory(TaskInputs(...))`.

    Raises:
        UserError: The name is no string, or the factory cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"the name of a task must be a string, found {name!r}.")
    if not callable(factory):
        raise UserError(f"task {name!r} must be a class or function that makes a task from TaskInputs, found {factory!r}.")
    _FACTORIES[name] = factory


def registered_tasks() -> dict[str, Callable[[TaskInputs], Task]]:
    """All factories by name."""
    return dict(_FACTORIES)
