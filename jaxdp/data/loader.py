"""Training data loaders: batches of this process from any step in the order of a sampler, and the data state of checkpoints.

Indexed data is reached at any position, and batches can be left out; a stream goes on from the
state of the batch before.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from jaxdp.data.dataset import BoundTask, Dataset, DatasetSpec
from jaxdp.data.pipeline import MakeBatch, data_state, train_batches
from jaxdp.data.preparing.examples import check_example
from jaxdp.data.samplers.balanced import BalancedSampler, balanced_sampler
from jaxdp.data.samplers.epochs import EpochSampler, Sampler
from jaxdp.data.samplers.mixture import MixtureSampler, mixture_weights
from jaxdp.data.samplers.shards import PARTITIONS
from jaxdp.data.sequences.padded import PaddedSequences
from jaxdp.data.stream import StreamBatches
from jaxdp.errors import UserError

MAX_STATES = 64
"""Maximum number of stream states kept in addition to those of queued batches; the training loop is a step or two behind."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Share of one process in every batch: `process_index` of `num_processes`."""

    num_processes: int
    process_index: int


class DataLoader(Protocol):
    """Training data as batches by step.

    Attributes:
        can_exclude: Whether batches can be left out.
    """

    can_exclude: bool

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        """Yields the host batches of this process from batch(first_step) on."""
        ...

    def data_state(self, step: int) -> dict[str, Any]:
        """Returns the position in the data after `step` batches, as a checkpoint records it."""
        ...

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Continues from the data state of a checkpoint of this data."""

    def shares(self, first_step: int, last_step: int) -> dict[str, float]:
        """Returns the share of each source in the sequences of batch(first_step) .. batch(last_step - 1)."""
        ...


class IndexedLoader:
    """Loader of indexed data: batch(N) is a function of the seed, N and the exclusions."""

    can_exclude = True

    def __init__(self, spec: DatasetSpec, data: Dataset, make_batch: MakeBatch, shard: Shard):
        self._data, self._make_batch, self._shard = data, make_batch, shard
        self._partition = spec.data.partition
        self._order = make_sampler(spec, data)

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        return train_batches(
            self._data.train_sequences,
            self._make_batch,
            self._order,
            partition=self._partition,
            num_processes=self._shard.num_processes,
            process_index=self._shard.process_index,
            start_step=first_step,
        )

    def data_state(self, step: int) -> dict[str, Any]:
        return data_state(self._order, self._data.fingerprint, step, self._data.cleaning)

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self.exclude(saved.get("exclusions", ()))

    def shares(self, first_step: int, last_step: int) -> dict[str, float]:
        return source_shares(self._order, self._data, first_step, last_step)

    def rows(self, step: int, row_ids: np.ndarray) -> np.ndarray:
        """Returns the sequence numbers in the training data of `row_ids` in batch(step): [n] int64 for [n] int32."""
        return self._order.rows(step, row_ids)

    def slots(self, steps: Iterable[int]) -> list[int]:
        """Returns the positions of these batches in the order of the data."""
        return [self._order.slot(step) for step in steps]

    def exclude(self, slots: Iterable[int]) -> None:
        """Leaves out the batches at these slots, in addition to those already excluded."""
        exclusions = sorted({*self._order.exclusions, *slots})
        self._order = dataclasses.replace(self._order, exclusions=tuple(exclusions))


class StreamLoader:
    """Loader of a stream of records: each batch leaves a state to continue from."""

    can_exclude = False

    def __init__(self, spec: DatasetSpec, data: Dataset, task: BoundTask, make_batch: MakeBatch, shard: Shard):
        if data.stream is None:
            raise ValueError("this dataset is no stream")
        tokenizer = data.vocabularies.input_tokenizer

        def prepare(fields):
            example = task.prepare({name: fields[column] for name, column in data.columns.items()}, tokenizer)
            check_example(task.prepare, example)
            return example

        self._batches = StreamBatches(
            stream=data.stream,
            prepare=prepare,
            eos_id=tokenizer.eos_id,
            make_batch=make_batch,
            length=task.row_lengths["tokens"],
            global_batch_size=spec.global_batch_size,
            partition=spec.data.partition,
            num_processes=shard.num_processes,
            process_index=shard.process_index,
        )
        self._max_states = MAX_STATES + spec.data.prefetch_batches
        self._states: OrderedDict[int, Mapping[str, Any]] = OrderedDict()
        self._remember(self._batches.first_state)

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        # The prefetch thread stores each state; the training loop reads those of the batches that it has taken.
        for batch, state in dataclasses.replace(self._batches, state=self._states[first_step]):
            self._remember(state)
            yield batch

    def _remember(self, state: Mapping[str, Any]) -> None:
        self._states[state["step"]] = state
        while len(self._states) > self._max_states:
            self._states.popitem(last=False)

    def data_state(self, step: int) -> dict[str, Any]:
        # Before the first batch, callers read only the fields that identify the data.
        return dict(self._states.get(step) or {**self._batches.first_state, "step": step})

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self._states.clear()
        self._remember(dict(saved))

    def shares(self, first_step: int, last_step: int) -> dict[str, float]:
        return {}


def make_loader(
    spec: DatasetSpec, data: Dataset, task: BoundTask, make_batch: MakeBatch, shard: Shard
) -> IndexedLoader | StreamLoader:
    """Returns the training data loader of a dataset.

    Args:
        spec: Specification of the dataset.
        data: The dataset.
        task: Task with the vocabularies of the dataset.
        make_batch: Turns sequences into the arrays of a batch, augmentation included.
        shard: The share of this process.
    """
    if data.stream is None:
        return IndexedLoader(spec, data, make_batch, shard)
    return StreamLoader(spec, data, task, make_batch, shard)


def make_sampler(spec: DatasetSpec, data: Dataset, exclusions: tuple[int, ...] = ()) -> Sampler:
    """Builds the sampler of a run."""
    if spec.data.partition not in PARTITIONS:
        raise UserError(f"data.partition={spec.data.partition!r} is unknown; choose one of: {', '.join(PARTITIONS)}.")
    shared = {
        "global_batch_size": spec.global_batch_size,
        "seed": spec.seed,
        "shuffle": spec.data.shuffle,
        "exclusions": exclusions,
    }
    if spec.data.balanced:
        labels, num_labels = _labels_of_rows(data)
        return balanced_sampler(labels, num_labels, **shared)
    if len(data.groups) == 1:
        return EpochSampler(num_rows=data.train_sequences.num_rows, **shared)
    sizes = tuple(group.num_rows for group in data.groups)
    weights = mixture_weights(sizes, [group.weight for group in data.groups], spec.data.temperature)
    return MixtureSampler(sizes=sizes, weights=weights, **shared)


def _labels_of_rows(data: Dataset) -> tuple[np.ndarray, int]:
    """Returns the label of each training sequence, [num_rows] integers, and the number of labels.

    Raises:
        UserError: The sequences do not have one label each.
    """
    labels = data.vocabularies.labels
    if labels is None or labels.kind != "single_label" or not isinstance(data.train, PaddedSequences):
        raise UserError(
            "data.balanced needs examples of one source with one label each: set it to False, or use "
            "task=classification with classification.kind=single_label."
        )
    return data.train.column("label"), len(labels.names)


def source_shares(order: Sampler, data: Dataset, first_step: int, last_step: int) -> dict[str, float]:
    """Returns `data/share/<name>`: the fraction of sequences from each source of a mixture, or with each balanced label.

    It covers batch(first_step) .. batch(last_step - 1). Other samplers have no shares: {}.
    """
    if not isinstance(order, MixtureSampler):
        return {}
    labels = data.vocabularies.labels
    if labels is not None and isinstance(order, BalancedSampler):
        names = labels.names
    else:
        names = [group.name for group in data.groups]
    rows = order.shares(first_step, last_step)
    return {f"data/share/{name}": float(share) for name, share in zip(names, rows / rows.sum(), strict=True)}
