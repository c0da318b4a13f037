"""`jaxdp train`: compose the parts, restore or initialise, run the loop."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxdp import config as configuration
from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.checkpoint.retention import Retention, remove_leftovers
from jaxdp.checkpoint.store import CheckpointWriter, read_item, restore_latest
from jaxdp.data.hashing import batch_hash
from jaxdp.data.pipeline import check_data_state, data_state, train_batches
from jaxdp.data.prefetch import Prefetch
from jaxdp.errors import UserError
from jaxdp.experiment import parts, report
from jaxdp.experiment.evaluate import Evaluator
from jaxdp.experiment.initialise import starting_parameters
from jaxdp.hooks.checkpointing import Checkpointing
from jaxdp.hooks.divergence import Divergence
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.every import Every
from jaxdp.hooks.logging import Logging
from jaxdp.hooks.preemption import Preemption
from jaxdp.hooks.profiling import Profiling
from jaxdp.model import flops_per_token, num_parameters
from jaxdp.parallel.devices import (
    BatchShape,
    Topology,
    check_device_count,
    configure_backend,
    connect_processes,
    connected_topology,
    divide_batch,
    fitting_cpu_devices,
)
from jaxdp.parallel.peaks import peak_flops
from jaxdp.parallel.placement import (
    abstract_batch,
    abstract_replicated,
    place_batch,
    place_per_device,
)
from jaxdp.parallel.signals import host_signals, signals_spec
from jaxdp.parallel.spmd import Program, compile_spmd
from jaxdp.state import TrainState
from jaxdp.step import make_train_step
from jaxdp.terminal import ProgressLine, say, show_table
from jaxdp.trainer import Hook, train
from jaxdp.workdir import WorkDir
from jaxdp.writers import MetricsFile, TensorBoardWriter, WandbWriter, truncate_after

RESUME_MODES = ("auto", "must", "never")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Trace `num_steps` steps after step `after_step`."""

    after_step: int
    num_steps: int


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of one run, where no cluster tells: see `jax.distributed.initialize`."""

    coordinator: str
    num_processes: int
    process_index: int


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: updates completed, and the signal that ended it early, or 0."""

    step: int
    request: int


def run(
    config: ConfigDict,
    workdir: str,
    *,
    resume: str = "auto",
    profile: Profile | None = None,
    processes: Processes | None = None,
) -> Result:
    """Trains `config` in `workdir`, from its newest checkpoint if there is one.

    Args:
        config: from `load_config`.
        workdir: made if missing; holds one run.
        resume: auto: continue if there is a checkpoint; must: refuse if there is
            none; never: refuse if there is one.
        profile: which steps to trace.
        processes: None: this process alone.

    Raises:
        UserError: anything the user can mend.
    """
    directory = WorkDir(workdir)
    directory.create()
    is_first = processes is None or processes.process_index == 0
    with directory.locked() if is_first else contextlib.nullcontext():
        steps = _steps_to_resume(directory, resume, clean=is_first)
        data = parts.read_data(config)
        config = parts.resolve(config, data.vocab_size)
        total_steps = parts.count_steps(config, data.train.num_rows)
        if steps:
            saved = read_item(directory.checkpoints / str(steps[-1]), "config")
            configuration.check_resumable(saved, configuration.to_json(config), directory.root)
            if steps[-1] >= total_steps:
                say(f"{directory.root} has finished its {steps[-1]} steps; a larger total_steps continues it.")
                return Result(steps[-1], 0)
        with Preemption(say) as preemption:
            return _Run(config, directory, data, total_steps, profile, preemption, processes).run()


def _steps_to_resume(directory: WorkDir, resume: str, *, clean: bool) -> list[int]:
    """Checkpointed steps that this run may continue from, after checking `resume` against them."""
    if resume not in RESUME_MODES:
        raise UserError(f"--resume={resume} is unknown; choose one of: {', '.join(RESUME_MODES)}.")
    steps = committed_steps(directory.checkpoints)
    if resume == "never" and steps:
        raise UserError(
            f"--resume=never, but --workdir={directory.root} holds checkpoints {steps}; "
            "use another --workdir, or --resume=auto to continue."
        )
    if resume == "must" and not steps:
        raise UserError(f"--resume=must, but {directory.checkpoints} holds no checkpoint; check --workdir.")
    for name in remove_leftovers(directory.checkpoints) if clean else ():
        say(f"removed {name}, left by an interrupted save")
    return steps


class _Run:
    """One call of `run`, once it is clear that there is something to train."""

    def __init__(
        self,
        config: ConfigDict,
        directory: WorkDir,
        data: parts.Data,
        total_steps: int,
        profile: Profile | None,
        preemption: Preemption,
        processes: Processes | None,
    ):
        self.config, self.directory, self.data = config, directory, data
        self.total_steps, self.profile, self.preemption = total_steps, profile, preemption
        configure_backend(
            config.parallel.cpu_devices,
            fitting_cpu_devices(config.global_batch_size),
            deterministic=config.parallel.deterministic,
        )
        if processes:
            connect_processes(
                processes.coordinator, processes.num_processes, processes.process_index
            )
        self.topology: Topology = connected_topology()
        check_device_count(config.parallel.cpu_devices, self.topology)
        self.shape: BatchShape = divide_batch(
            config.global_batch_size, config.microbatch_size, self.topology.num_devices
        )
        self.task = parts.make_task(config, data.tokenizer)
        self.model = parts.make_model(config, data.vocab_size, self.topology.platform)
        self.update = parts.make_update(config, total_steps)
        self.order = parts.row_order(config, data.train)
        self.initialise = parts.make_initial_state(config, self.model, self.update)
        self.abstract_state = abstract_replicated(jax.eval_shape(self.initialise), self.topology)

    def run(self) -> Result:
        """Compiles, restores, trains."""
        _log_to(self.directory, self.topology)
        program = self._compile()
        evaluator = Evaluator(
            self.config, self.task, self.model, self.data.evaluation, self.topology,
            self.abstract_state.params,
        )
        self._show(program)
        state, first_step = self._restore_or_initialise()
        self._record_config(first_step)
        with contextlib.ExitStack() as stack:
            writers, progress = self._open_writers(stack, first_step)
            write = lambda step, values: [writer.write(step, values) for writer in writers]  # noqa: E731
            hooks = self._hooks(stack, write, evaluator)
            batches = stack.enter_context(Prefetch(self._batches(first_step), self._place))
            stack.enter_context(progress)
            outcome = train(
                program,
                state,
                batches,
                self._signal_maker(),
                hooks,
                first_step=first_step,
                total_steps=self.total_steps,
                waited_secs=lambda: batches.wait_secs,
            )
        say(f"stopped after step {outcome.step} of {self.total_steps}; saved in {self.directory.checkpoints}"
            if outcome.request else f"finished {outcome.step} steps; everything is in {self.directory.root}")
        return Result(outcome.step, outcome.request)

    def _compile(self) -> Program:
        step = make_train_step(
            parts.task_loss(self.task, self.model, train=True),
            self.update,
            parts.make_sync(self.config, self.topology.platform),
            self.shape,
            self.config.seed,
        )
        batch = parts.batch_spec(self.task, self.shape.device_batch_size)
        return compile_spmd(
            step,
            self.topology,
            self.abstract_state,
            abstract_batch(batch, self.topology),
            abstract_batch(signals_spec(), self.topology),
            mapped=(1, 2),
            donated=(0,),
        )

    def _flops_per_step(self) -> float:
        length = self.config.data.length
        tokens = self.config.global_batch_size * length
        return float(flops_per_token(self.model.config, length)) * tokens

    def _show(self, program: Program) -> None:
        if self.topology.process_index != 0:
            return
        model = self.model.config
        show_table(
            [
                ("devices", report.devices_line(self.topology)),
                ("data", self.data.summary),
                ("model", report.model_line(model, num_parameters(model), self.config.model.preset)),
                ("batch", report.batch_line(self.shape, self.config.data.length)),
                ("compute", report.compute_line(self._flops_per_step(), program.compile_secs)),
                ("memory", report.memory_line(program.device_bytes, self.topology)),
            ]
        )

    def _restore_or_initialise(self) -> tuple[TrainState, int]:
        """Resuming beats `init_from`, which beats fresh parameters."""
        checkpoints = self.directory.checkpoints
        state = restore_latest(checkpoints, self.abstract_state, say)
        if state is not None:
            step = int(state.step)
            expected = data_state(self.order, self.data.fingerprint, step)
            check_data_state(read_item(checkpoints / str(step), "data"), expected)
            say(f"resuming from checkpoint {step} of {self.total_steps} steps")
            return state, step
        state = jax.jit(self.initialise, out_shardings=self.topology.replicated)()
        if self.config.init_from:
            params = starting_parameters(self.config.init_from, self.abstract_state.params)
            ema = None if state.ema is None else jax.tree.map(lambda leaf: leaf.copy(), params)
            state = state.replace(params=params, ema=ema)
            say(f"starting from the parameters of {self.config.init_from}")
        return state, 0

    def _record_config(self, first_step: int) -> None:
        """Writes config.json; the one it replaces stays as config.<step>.json."""
        if self.topology.process_index != 0:
            return
        text = json.dumps(configuration.to_json(self.config), indent=2) + "\n"
        path = self.directory.config
        if path.is_file() and path.read_text() != text:
            path.rename(path.with_name(f"config.{first_step}.json"))
        path.write_text(text)
        if self.data.tokenizer is not None:
            self.data.tokenizer.save(self.directory.tokenizer)

    def _open_writers(self, stack: contextlib.ExitStack, first_step: int):
        if self.topology.process_index != 0:
            return [], contextlib.nullcontext()
        truncate_after(self.directory.metrics, first_step)
        progress = ProgressLine(first_step, self.total_steps)
        writers = [MetricsFile(self.directory.metrics), progress]
        if self.config.log.tensorboard:
            writers.append(TensorBoardWriter(self.directory.tensorboard))
        if self.config.log.wandb:
            writers.append(WandbWriter(self.directory.root, configuration.to_json(self.config)))
        for writer in writers:
            stack.callback(writer.close)
        return writers, progress

    def _hooks(self, stack: contextlib.ExitStack, write, evaluator: Evaluator) -> list[Hook]:
        config = self.config
        peak = peak_flops(self.topology.kind)
        evaluating = Evaluating(
            Every(config.eval.every_steps, self.total_steps),
            lambda state: evaluator(state.params if state.ema is None else state.ema),
            write,
        )
        writer = CheckpointWriter(
            self.directory.checkpoints,
            Retention(
                config.checkpoint.keep_latest,
                config.checkpoint.keep_best,
                config.checkpoint.keep_every_steps,
                config.eval.metric,
            ),
            self.abstract_state,
            async_save=config.checkpoint.async_save,
        )
        stack.callback(writer.close)
        hooks = [
            self.preemption,
            Logging(
                Every(config.log.every_steps, self.total_steps),
                write,
                flops_per_step=self._flops_per_step(),
                peak_flops=peak and peak * self.topology.num_devices,
                batch_hash=config.log.batch_hash,
            ),
            Divergence(config.optim.max_skipped_in_a_row),
            evaluating,  # before the checkpoint of the same step, which records its result
            Checkpointing(
                writer,
                Every(config.checkpoint.every_steps, self.total_steps),
                lambda step: data_state(self.order, self.data.fingerprint, step),
                configuration.to_json(config),
                evaluating.last_at,
                minutes=config.checkpoint.every_minutes,
            ),
        ]
        if self.profile:
            hooks.append(
                Profiling(self.directory.profile, self.profile.after_step, self.profile.num_steps, say)
            )
        return hooks

    def _batches(self, first_step: int) -> Iterator[Mapping[str, Any]]:
        return train_batches(
            self.data.train,
            self.task.make_batch,
            self.order,
            partition=self.config.data.partition,
            num_processes=self.topology.num_processes,
            process_index=self.topology.process_index,
            start_step=first_step,
        )

    def _place(self, batch: Mapping[str, Any]) -> tuple[Mapping[str, jax.Array], int]:
        """Puts a host batch on the devices, with the hash of this process's share of it."""
        hashed = batch_hash(batch, batch["row_ids"]) if self.config.log.batch_hash else 0
        return place_batch(batch, self.topology), hashed

    def _signal_maker(self) -> Callable[[int, int], Any]:
        """Places signals; the silent ones once."""

        def place(request: int, tally: int):
            signals = host_signals(self.topology.num_local_devices, request, tally)
            return {name: place_per_device(array, self.topology) for name, array in signals.items()}

        silent = place(0, 0)
        return lambda request, tally: place(request, tally) if request or tally else silent


def _log_to(directory: WorkDir, topology: Topology) -> None:
    """Sends what is said to logs/process_<i>.log too."""
    directory.logs.mkdir(exist_ok=True)
    handler = logging.FileHandler(directory.logs / f"process_{topology.process_index}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("jaxdp")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
