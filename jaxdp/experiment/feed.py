"""What a run is fed with: this process's batches from any step on, and where in the data that is.

Rows by number can be reached at once, and left out; a stream goes on from the
state of the batch before.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.pipeline import data_state, train_batches
from jaxdp.data.stream import StreamBatches
from jaxdp.experiment.dataset import Data
from jaxdp.experiment.order import row_order, source_shares
from jaxdp.parallel.devices import Topology
from jaxdp.tasks import Task
from jaxdp.training import parts

STATES_KEPT = 64
"""States of a stream that are kept beside those of the batches in the queue: the loop is a step or two behind."""


class Feed(Protocol):
    """Training data as batches by step.

    Attributes:
        can_exclude: whether batches can be left out.
    """

    can_exclude: bool

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        """This process's host batches from batch(first_step) on."""

    def data_state(self, step: int) -> dict[str, Any]:
        """Position of the data after `step` batches, as a checkpoint records it."""

    def adopt(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what a checkpoint recorded, which is of this data."""

    def shares(self, first_step: int, last_step: int) -> dict[str, float]:
        """Share of the rows of batch(first_step) .. batch(last_step - 1) that each source gave."""


class RowFeed:
    """Rows by number: batch(N) is a function of the seed, N and what is left out."""

    can_exclude = True

    def __init__(self, config: ConfigDict, data: Data, task: Task, topology: Topology):
        self._data, self._topology = data, topology
        self._make_batch = parts.make_training_batch(config, task, data.vocabularies)
        self._partition = config.data.partition
        self._order = row_order(config, data)

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        return train_batches(
            self._data.train,
            self._make_batch,
            self._order,
            partition=self._partition,
            num_processes=self._topology.num_processes,
            process_index=self._topology.process_index,
            start_step=first_step,
        )

    def data_state(self, step: int) -> dict[str, Any]:
        return data_state(self._order, self._data.fingerprint, step, self._data.cleaning)

    def adopt(self, saved: Mapping[str, Any]) -> None:
        self.exclude(saved.get("exclusions", ()))

    def shares(self, first_step: int, last_step: int) -> dict[str, float]:
        return source_shares(self._order, self._data, first_step, last_step)

    def rows(self, step: int, row_ids: np.ndarray) -> np.ndarray:
        """Numbers, in the training data, of some rows of batch(step): [n] int64 for [n] int32."""
        return self._order.rows(step, row_ids)

    def slots(self, steps: Iterable[int]) -> list[int]:
        """Where these batches lie in the order of the data."""
        return [self._order.slot(step) for step in steps]

    def exclude(self, slots: Iterable[int]) -> None:
        """Makes no batch of these slots, beside those left out already."""
        exclusions = sorted({*self._order.exclusions, *slots})
        self._order = dataclasses.replace(self._order, exclusions=tuple(exclusions))


class StreamFeed:
    """Records as they come: each batch leaves a state to go on from."""

    can_exclude = False

    def __init__(self, config: ConfigDict, data: Data, task: Task, topology: Topology):
        def prepare(fields):
            return task.prepare({name: fields[column] for name, column in data.columns.items()}, data.vocabularies.tokenizer)

        self._batches = StreamBatches(
            stream=data.stream,
            prepare=prepare,
            eos_id=data.vocabularies.tokenizer.eos_id,
            make_batch=parts.make_training_batch(config, task, data.vocabularies),
            length=task.row_lengths["tokens"],
            global_batch_size=config.global_batch_size,
            partition=config.data.partition,
            num_processes=topology.num_processes,
            process_index=topology.process_index,
        )
        self._most_states = STATES_KEPT + config.data.prefetch_batches
        self._states: OrderedDict[int, Mapping[str, Any]] = OrderedDict()
        self._remember(self._batches.first_state)

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        # The thread that reads ahead remembers each state; the loop asks for those of batches it has taken.
        for batch, state in dataclasses.replace(self._batches, state=self._states[first_step]):
            self._remember(state)
            yield batch

    def _remember(self, state: Mapping[str, Any]) -> None:
        self._states[state["step"]] = state
        while len(self._states) > self._most_states:
            self._states.popitem(last=False)

    def data_state(self, step: int) -> dict[str, Any]:
        # Asked before anything is read only to see what identifies the data.
        return dict(self._states.get(step) or {**self._batches.first_state, "step": step})

    def adopt(self, saved: Mapping[str, Any]) -> None:
        self._states.clear()
        self._remember(dict(saved))

    def shares(self, first_step: int, last_step: int) -> dict[str, float]:
        return {}


def make_feed(config: ConfigDict, data: Data, task: Task, topology: Topology) -> "RowFeed | StreamFeed":
    """The feed of prepared rows, or of a stream."""
    return (RowFeed if data.stream is None else StreamFeed)(config, data, task, topology)
