"""Everything between a configuration and a step that can run: devices, model, program, batches."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.hashing import batch_hash
from jaxdp.data.pipeline import data_state, train_batches
from jaxdp.experiment import parts
from jaxdp.experiment.evaluate import Evaluator
from jaxdp.model import flops_per_token
from jaxdp.parallel.consistency import compile_checksums
from jaxdp.parallel.devices import (
    BatchShape,
    Topology,
    check_device_count,
    configure_backend,
    connected_topology,
    divide_batch,
    fitting_cpu_devices,
)
from jaxdp.parallel.placement import (
    abstract_batch,
    abstract_replicated,
    place_batch,
    place_per_device,
)
from jaxdp.parallel.processes import Processes, connect
from jaxdp.parallel.signals import host_signals, signals_spec
from jaxdp.parallel.spmd import Program, compile_spmd
from jaxdp.state import TrainState
from jaxdp.step import Update, make_train_step


class Composition:
    """The parts of a training run; making it starts the backend."""

    def __init__(
        self,
        config: ConfigDict,
        data: parts.Data,
        total_steps: int,
        processes: Processes | None = None,
    ):
        """
        Args:
            config: resolved.
            data: read before, since no backend may run while data is prepared.
            total_steps: length of the run, which schedules need.
            processes: None: this process alone.
        """
        self.config, self.data, self.total_steps = config, data, total_steps
        configure_backend(
            config.parallel.cpu_devices,
            fitting_cpu_devices(config.global_batch_size),
            deterministic=config.parallel.deterministic,
        )
        if processes:
            connect(processes)
        self.topology: Topology = connected_topology()
        check_device_count(config.parallel.cpu_devices, self.topology)
        self.shape: BatchShape = divide_batch(
            config.global_batch_size, config.microbatch_size, self.topology.num_devices
        )
        self.task = parts.make_task(config, data.tokenizer)
        self.model = parts.make_model(config, data.vocab_size, self.topology.platform)
        self.update = parts.make_update(config, total_steps, self.topology.platform)
        self._order = parts.row_order(config, data.train)
        self._initialise = parts.make_initial_state(config, self.model, self.update)
        self.abstract_state = abstract_replicated(jax.eval_shape(self._initialise), self.topology)

    def compile_step(
        self, update: Update | None = None, shape: BatchShape | None = None
    ) -> Program:
        """The train step for these devices: (state, batch, signals) -> (state, metrics).

        Args:
            update: another than the run's, to compare with; None: the run's.
            shape: another than the run's; None: the run's.
        """
        shape = shape or self.shape
        step = make_train_step(
            parts.task_loss(self.task, self.model, train=True),
            update or self.update,
            parts.make_sync(self.config, self.topology.platform),
            shape,
            self.config.seed,
        )
        batch = parts.batch_spec(self.task, shape.device_batch_size)
        return compile_spmd(
            step,
            self.topology,
            self.abstract_state,
            abstract_batch(batch, self.topology),
            abstract_batch(signals_spec(), self.topology),
            mapped=(1, 2),
            donated=(0,),
        )

    def compile_evaluator(self) -> Evaluator:
        """Evaluation of the held-out rows."""
        return Evaluator(
            self.config, self.task, self.model, self.data.evaluation, self.topology,
            self.abstract_state.params,
        )  # fmt: skip

    def compile_checksums(self) -> Callable[[TrainState], jax.Array]:
        """Checksums of every device's own copy of the state."""
        return compile_checksums(self.abstract_state, self.topology)

    def fresh_state(self) -> TrainState:
        """State 0, drawn from the seed on every device alike."""
        return jax.jit(self._initialise, out_shardings=self.topology.replicated)()

    @property
    def flops_per_step(self) -> float:
        """Model FLOPs of one update over all devices."""
        length = self.config.data.length
        return float(flops_per_token(self.model.config, length)) * self.config.global_batch_size * length

    def batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        """This process's host batches from batch(first_step) on."""
        return train_batches(
            self.data.train,
            self.task.make_batch,
            self._order,
            partition=self.config.data.partition,
            num_processes=self.topology.num_processes,
            process_index=self.topology.process_index,
            start_step=first_step,
        )

    def place(self, batch: Mapping[str, Any]) -> tuple[Mapping[str, jax.Array], int]:
        """Puts a host batch on the devices, with the hash of this process's share of it."""
        hashed = batch_hash(batch, batch["row_ids"]) if self.config.log.batch_hash else 0
        return place_batch(batch, self.topology), hashed

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

    def data_state(self, step: int) -> dict[str, Any]:
        """Position of the data after `step` batches, as a checkpoint records it."""
        return data_state(self._order, self.data.fingerprint, step)

    def signal_maker(self) -> Callable[[int, int], Any]:
        """A function (request, hash) -> placed signals; the silent ones are placed once."""

        def place(request: int, tally: int):
            signals = host_signals(self.topology.num_local_devices, request, tally)
            return {name: place_per_device(array, self.topology) for name, array in signals.items()}

        silent = place(0, 0)
        return lambda request, tally: place(request, tally) if request or tally else silent
