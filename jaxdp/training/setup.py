"""Training setup: devices, model, optimizer update, data loader and compiled programs of a prepared run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxdp.config_values import AUTO
from jaxdp.data.batch_hash import batch_hash
from jaxdp.data.loader import Shard, make_loader
from jaxdp.errors import UserError
from jaxdp.inference.evaluator import Evaluator
from jaxdp.metrics import MetricSpec
from jaxdp.parallel.consistency import compile_checksums
from jaxdp.parallel.control_word import control_word_maker
from jaxdp.parallel.devices import (
    check_device_count,
    check_same_devices,
    configure_backend,
    divide_batch,
    fitting_cpu_devices,
    fitting_topology,
    init_devices,
)
from jaxdp.parallel.layout import replicated_leaves
from jaxdp.parallel.placement import (
    place_batch,
)
from jaxdp.parallel.processes import ALONE, Processes, connect
from jaxdp.parallel.spmd import Program
from jaxdp.run_config import RunConfig
from jaxdp.state import TrainState
from jaxdp.tasks import declared_metrics
from jaxdp.tasks.architecture import make_model
from jaxdp.tasks.make import make_training_batch
from jaxdp.training.auto_microbatch import Agree, choose_microbatch
from jaxdp.training.prepared_run import PreparedRun
from jaxdp.training.size_limits import check_batch_size
from jaxdp.training.step_setup import StepSetup
from jaxdp.watchdog import max_limit_secs

MIN_HEARTBEAT_SECS = 100.0
"""JAX's own default."""


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled programs of a run.

    Attributes:
        step: Train step, (state, batch, control_word) -> (state, metrics).
        evaluator: Evaluation of the validation split.
        checksums: Checksums of the replicas, state -> [num_devices, num_leaves] uint32; None: they are not compared.
    """

    step: Program
    evaluator: Evaluator
    checksums: Callable[[TrainState], jax.Array] | None


class TrainingSetup(StepSetup):
    """Parts of a training run. Constructing it starts the backend."""

    def __init__(self, prepared: PreparedRun, processes: Processes = ALONE, agree: Agree = lambda value: value):
        """Connects the devices and builds the parts.

        Args:
            prepared: Configuration, dataset and task; no backend may run while data is prepared.
            processes: Processes that train together; all are known to be there.
            agree: Function that returns the value of process 0, called by all processes.

        Raises:
            UserError: A value of the configuration does not fit, e.g. an `eval.metric` that the task does not declare.
        """
        config, task = prepared.config, prepared.task
        self.data = data = prepared.data
        configure_backend(
            config.parallel.cpu_devices,
            fitting_cpu_devices(config.global_batch_size),
            deterministic=config.parallel.deterministic,
        )
        if processes.num_processes > 1:
            connect(processes, config.parallel.init_timeout_secs, _heartbeat_secs(config))
        topology = init_devices()
        if config.parallel.cpu_devices is None:
            topology = fitting_topology(topology, config.global_batch_size)
        check_same_devices(topology)
        check_device_count(config.parallel.cpu_devices, topology)
        is_auto = config.microbatch_size == AUTO
        # Sizes that no machine holds are refused before any is tried.
        smallest = 1 if is_auto else config.fixed_microbatch_size
        shape = divide_batch(config.global_batch_size, smallest, topology.num_devices)
        self.metrics: Mapping[str, MetricSpec] = declared_metrics(task, scored=data.pairs is not None)
        self.metric: MetricSpec = _chosen_metric(config, self.metrics)
        model = make_model(config, task, data.vocab_size, topology.platform)
        # The batches of a stream come as slowly as it does, so none waits in the queue.
        prefetch_batches = 0 if data.stream else config.data.prefetch_batches
        check_batch_size(task, model.config, shape, topology, num_batches=1 + prefetch_batches)
        super().__init__(config, task, model, shape, prepared.total_steps, topology)
        if is_auto:
            self.shape = choose_microbatch(self, agree)
            self.config = config.replaced(microbatch_size=self.shape.microbatch_size)
        self.loader = make_loader(
            prepared.spec, data, task, make_training_batch(prepared.spec, task, data.vocabularies),
            Shard(topology.num_processes, topology.process_index),
        )  # fmt: skip

    def compile(self) -> Programs:
        """Compiles all programs of the run, one after another.

        Compiling them at the same time in threads took longer on two cores (10.0 instead of 9.3 s from start to end of two
        steps, medians of three), since XLA generates the code of one program in several threads already.

        Raises:
            UserError: The task does not measure `eval.metric`, which it declares.
        """
        step, evaluator = self.compile_step(), self.compile_evaluator()
        metric, measured = self.config.eval.metric, evaluator.metric_names
        if metric not in measured:
            raise UserError(
                f"eval.metric={metric!r} is declared by task={self.config.task}, which does not measure it; choose one "
                f"of: {', '.join(measured)}."
            )
        compared = self.config.parallel.check_every_steps and self.topology.num_devices > 1
        return Programs(step, evaluator, self.compile_checksums() if compared else None)

    def compile_evaluator(self) -> Evaluator:
        """Compiles the evaluation of the validation split."""
        return Evaluator(
            self.config, self.task, self.eval_model, self.data, self.data.evaluation, self.topology,
            self.placement.abstract_eval_params,
        )  # fmt: skip

    def compile_checksums(self) -> Callable[[TrainState], jax.Array]:
        """Compiles the checksums of the copy that each device holds of what is replicated."""
        placement = self.placement
        program = compile_checksums(
            [leaf for _, leaf in replicated_leaves(placement.abstract, placement.layout)], self.topology
        )
        return lambda state: program([leaf for _, leaf in replicated_leaves(state, placement.layout)])

    def place(self, batch: Mapping[str, Any]) -> tuple[Mapping[str, jax.Array], int]:
        """Puts a host batch on the devices, with the hash of this process's share of it."""
        hashed = batch_hash(batch, batch["row_ids"]) if self.config.log.batch_hash else 0
        return place_batch(batch, self.topology), hashed

    def control_word_maker(self) -> Callable[[int, int], Any]:
        """Returns a function (request, batch hash) -> control word on the devices."""
        return control_word_maker(self.topology)


def _chosen_metric(config: RunConfig, metrics: Mapping[str, MetricSpec]) -> MetricSpec:
    """Returns the declaration of `eval.metric`.

    Raises:
        UserError: The task does not declare it, or declares no direction.
    """
    name, ranking = config.eval.metric, [name for name, spec in metrics.items() if spec.higher_is_better is not None]
    if name not in ranking:
        why = "has no direction (higher_is_better)" if name in metrics else f"is not a metric of task={config.task}"
        raise UserError(f"eval.metric={name!r} {why}; choose one of: {', '.join(ranking)}.")
    return metrics[name]


def _heartbeat_secs(config: RunConfig) -> float:
    """Returns the heartbeat timeout of JAX: longer than the watchdog limit, since the watchdog names where a process hangs."""
    return max(MIN_HEARTBEAT_SECS, 2 * max_limit_secs(config.parallel.watchdog_secs))
