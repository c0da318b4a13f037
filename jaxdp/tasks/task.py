"""What a task is: everything that the loop and the step must not know.

A task turns records into rows on the host, rows into batches, and a model's
output into sums. The step adds the sums over microbatches and devices and
divides once, so a task never averages and never communicates.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxdp.metrics import Sums
from jaxdp.typing import HostBatch, PyTree

Apply = Callable[..., Any]
"""apply(params, tokens, **options) -> logits: the model without its class."""


class LossSums(NamedTuple):
    """Sums over the valid positions of some rows, on one device.

    Attributes:
        loss: [] float32, sum of the objective, label smoothing and z-loss included.
        weight: [] float32, sum of the loss weights: the number of valid tokens.
        metrics: further (sum, weight) pairs of [] float32; empty while training.
    """

    loss: jax.Array
    weight: jax.Array
    metrics: Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """What a task is built from.

    Attributes:
        length: tokens of a row that the model sees.
        tokenizer: see `jaxdp.data.tokenizers`; None for ready-made tokens.
        packing: what a row is: `cut` | `documents` | `none`, as `data.packing` says.
        label_smoothing: share of the target's probability spread over the vocabulary.
        z_loss: weight of log(Z)^2 in the objective.
    """

    length: int
    tokenizer: Any = None
    packing: str = "cut"
    label_smoothing: float = 0.0
    z_loss: float = 0.0


class Task(Protocol):
    """The interface that `jaxdp.step`, `evaluation` and `experiment` rely on.

    Attributes:
        fields: what `prepare` reads of a record: `text`, `label`, `source`, `target`;
            `data.<field>_column` says which column of the source that is.
        terminated: arrays of an example that are texts by themselves: end of text
            follows each of them in the prepared data.
        packings: the values of `data.packing` that it can read, its default first.
    """

    fields: tuple[str, ...]
    terminated: tuple[str, ...]
    packings: tuple[str, ...]

    def prepare(self, record: Mapping[str, Any], tokenizer) -> dict[str, np.ndarray]:
        """One source record -> one example; deterministic, so that it can be cached."""

    def make_batch(
        self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Gathered examples `[rows, ...]` -> named arrays `[rows, ...]`.

        Randomness (masking) may depend on (seed, step, row_ids) alone; `row_ids`
        `[rows] int32` are the rows' numbers in the global batch.
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
        """Evaluation metrics that are functions of the means."""


_FACTORIES: dict[str, Callable[[TaskInputs], Task]] = {}


def register_task(name: str, factory: Callable[[TaskInputs], Task]) -> None:
    """Makes `config.task = name` build its task with `factory(TaskInputs(...))`."""
    _FACTORIES[name] = factory


def registered_tasks() -> dict[str, Callable[[TaskInputs], Task]]:
    """All factories by name."""
    return dict(_FACTORIES)
