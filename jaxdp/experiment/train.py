"""`jaxdp train`: restore or initialise, run the loop with its hooks, say how it ended."""

import contextlib
import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxdp import config as configuration
from jaxdp.checkpoint.manifest import (
    committed_steps,
    find_damage,
    read_item,
    read_manifest,
    record_metrics,
)
from jaxdp.checkpoint.retention import delete_checkpoint, remove_leftovers
from jaxdp.checkpoint.store import CheckpointWriter, restore_latest
from jaxdp.data.prefetch import Prefetch
from jaxdp.errors import DamageFound, UserError
from jaxdp.experiment import parts, report
from jaxdp.experiment.agreement import check_same, check_shared_directory, statement
from jaxdp.experiment.composition import Composition
from jaxdp.experiment.data import read_data
from jaxdp.experiment.evaluate import Evaluator
from jaxdp.experiment.initialise import start_from, starting_vocabularies
from jaxdp.experiment.retention import retention_of
from jaxdp.experiment.rollback import Rollbacks
from jaxdp.experiment.vocabularies import NONE, Vocabularies, load_vocabularies, save_vocabularies
from jaxdp.hooks.checkpointing import Checkpointing
from jaxdp.hooks.consistency import Consistency
from jaxdp.hooks.divergence import Divergence
from jaxdp.hooks.early_stopping import EARLY_STOP, EarlyStopping
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.every import Every
from jaxdp.hooks.logging import Logging
from jaxdp.hooks.preemption import Preemption, Stopped
from jaxdp.hooks.profiling import Profiling
from jaxdp.hooks.watching import InPhase, Watching
from jaxdp.model import num_parameters
from jaxdp.parallel.barrier import wait_for_all
from jaxdp.parallel.clusters import check_coordinator, cluster_processes
from jaxdp.parallel.peaks import peak_flops
from jaxdp.parallel.peers import Peers
from jaxdp.parallel.processes import ALONE, Processes
from jaxdp.parallel.spmd import Program
from jaxdp.state import TrainState
from jaxdp.terminal import ProgressLine, say, show_table
from jaxdp.trainer import Hook, Outcome, train
from jaxdp.trees import named_leaves
from jaxdp.watchdog import PREPARATION_PATIENCE, TRAINING, Watchdog
from jaxdp.workdir import WorkDir
from jaxdp.writers import MetricsFile, TensorBoardWriter, WandbWriter, truncate_after

RESUME_MODES = ("auto", "must", "never")

Write = Callable[[int, Mapping[str, float | str]], None]
"""(step, metrics by full name) -> None: a line to every writer."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Trace `num_steps` steps after step `after_step`."""

    after_step: int
    num_steps: int


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: updates completed.
        request: the signal that ended it early, or 0.
        interrupted: it came out of the middle of something, with nothing to save.
    """

    step: int
    request: int
    interrupted: bool = False


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
        processes: None: those that the cluster's environment tells of, or this one alone.

    Raises:
        UserError: anything the user can mend.
    """
    directory = WorkDir(workdir)
    directory.create()
    processes = processes or cluster_processes() or ALONE
    check_coordinator(processes)
    try:
        return _run(config, directory, resume, profile, processes)
    except Stopped as stopped:
        steps = committed_steps(directory.checkpoints)
        say(f"stopped before step {steps[-1] + 1 if steps else 1}; the same command {'continues' if steps else 'starts again'}")
        return Result(steps[-1] if steps else 0, stopped.number, interrupted=True)


def _run(
    config: ConfigDict, directory: WorkDir, resume: str, profile: Profile | None, processes: Processes
) -> Result:
    """`run` but for a signal before there is anything to save."""
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption(say, config.checkpoint.grace_secs))
        peers = stack.enter_context(Peers(processes, config.parallel.init_timeout_secs, _say_at_the_end))
        if peers.is_first:
            stack.enter_context(directory.locked())
        log = directory.log(peers.process_index)
        stack.enter_context(_logging_to(log))
        stack.enter_context(peers.explaining())
        watchdog = stack.enter_context(Watchdog(config.parallel.watchdog_secs, log))
        check_shared_directory(peers, directory)
        steps = _steps_to_resume(directory, resume, clean=peers.is_first)
        with watchdog.phase("preparing the data", PREPARATION_PATIENCE):
            data = read_data(config, _known_vocabularies(config, directory, steps))
            config = parts.resolve(config, data.vocab_size, data.vocabularies)
            total_steps = parts.count_steps(config, data.train.num_rows if data.train else None)
            check_same(peers, statement(config, data.fingerprint, total_steps))
        if steps:
            saved = _saved_config(directory.checkpoints, steps)
            if saved is not None:
                configuration.check_resumable(saved, configuration.to_json(config), directory.root)
            if peers.tell(peers.is_first and _has_finished(directory.checkpoints, steps[-1], total_steps)):
                say(f"{directory.root} has finished its {steps[-1]} steps; a larger total_steps continues it.")
                return Result(steps[-1], 0)
            stopping = _early_stopping(config, directory, steps[-1], lambda step: {})
            if peers.tell(peers.is_first and steps[-1] < total_steps and stopping.is_exhausted):
                say(f"{directory.root} has {stopping.message}; a larger eval.patience continues it.")
                return Result(steps[-1], 0)
        if peers.num_processes > 1:
            preemption.hold(peers)  # JAX would abort the others if one left alone
        with watchdog.phase("connecting to the devices"):
            composition = Composition(config, data, total_steps, processes)
        return _Session(composition, directory, profile, preemption, watchdog, peers).run()


def _known_vocabularies(config: ConfigDict, directory: WorkDir, steps: Sequence[int]) -> Vocabularies:
    """Those that a run that resumes, or one that starts from another, goes on with."""
    if steps:
        return load_vocabularies(directory)
    return starting_vocabularies(config.init_from) if config.init_from else NONE


def _say_at_the_end(sentence: str) -> None:
    """As the command line does what ends the run."""
    say(f"jaxdp: {sentence}")


def _steps_to_resume(directory: WorkDir, resume: str, *, clean: bool) -> list[int]:
    """Checkpointed steps that this run may continue from, after checking `resume` against them."""
    if resume not in RESUME_MODES:
        raise UserError(f"--resume={resume} is unknown; choose one of: {', '.join(RESUME_MODES)}.")
    steps = committed_steps(directory.checkpoints)
    if resume == "never" and steps:
        raise UserError(
            f"--resume=never, but --workdir={directory.root} holds checkpoints "
            f"{', '.join(map(str, steps))}; "
            "use another --workdir, or --resume=auto to continue."
        )
    if resume == "must" and not steps:
        raise UserError(f"--resume=must, but {directory.checkpoints} holds no checkpoint; check --workdir.")
    for name in remove_leftovers(directory.checkpoints) if clean else ():
        say(f"removed {directory.checkpoints / name}, which an interrupted save or deletion left behind")
    return steps


def _saved_config(checkpoints: Path, steps: Sequence[int]) -> Mapping[str, Any] | None:
    """The configuration in the newest checkpoint where it is undamaged."""
    for step in reversed(steps):
        try:
            return read_item(checkpoints / str(step), "config")
        except DamageFound:
            continue  # restoring names it and sets it aside
    return None


def _has_finished(checkpoints: Path, step: int, total_steps: int) -> bool:
    """Whether the run is past its end, or at it with its evaluation made, in a checkpoint without damage."""
    if step < total_steps or find_damage(checkpoints / str(step)):
        return False
    return step > total_steps or bool(read_manifest(checkpoints / str(step)).metrics)


def _early_stopping(
    config: ConfigDict, directory: WorkDir, step: int, evaluated: Callable[[int], Mapping[str, float]]
) -> EarlyStopping:
    """What counts evaluations without a gain, those in metrics.jsonl up to this step included."""
    lines = directory.metrics.read_text().splitlines() if directory.metrics.is_file() else ()
    history = [json.loads(line) for line in lines if config.eval.metric in line]
    return EarlyStopping(
        Every(config.eval.every_steps),
        config.eval.metric,
        config.eval.patience,
        evaluated,
        [values for values in history if values["step"] <= step],
    )


class _LogFile(logging.FileHandler):
    """A log that is given up when its disk is full: what it would hold is on the terminal too."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger("jaxdp").removeHandler(self)
        say(f"{self.baseFilename} can no longer be written ({sys.exc_info()[1]}); the rest goes to the terminal alone")


@contextlib.contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    """Sends what is said to this file too."""
    log.parent.mkdir(exist_ok=True)
    handler = _LogFile(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("jaxdp")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    except UserError as error:
        logger.error(str(error))
        raise
    except Exception:
        logger.exception("a fault of jaxdp")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


class _Session:
    """One start of a run in its work directory."""

    def __init__(
        self,
        composition: Composition,
        directory: WorkDir,
        profile: Profile | None,
        preemption: Preemption,
        watchdog: Watchdog,
        peers: Peers,
    ):
        self._peers = peers
        self._composition, self._directory = composition, directory
        self._profile, self._preemption, self._watchdog = profile, preemption, watchdog
        self._config = composition.config
        self._is_first = composition.topology.process_index == 0
        self._checksums: Callable[[TrainState], jax.Array] | None = None
        self._rollbacks = Rollbacks(composition)
        self._stopping: EarlyStopping | None = None

    def run(self) -> Result:
        """Compiles, restores, trains."""
        composition = self._composition
        with self._watchdog.phase("compiling"):
            program = composition.compile_step()
            evaluator = composition.compile_evaluator()
            if self._config.parallel.check_every_steps and composition.topology.num_devices > 1:
                self._checksums = composition.compile_checksums()
        self._check_metric(evaluator)
        if self._is_first:
            self._show(program)
        with self._watchdog.phase("restoring"):
            state, first_step = self._restore_or_initialise()
        self._preemption.hold(self._peers)
        if self._is_first:
            self._record_config(first_step)
        while (outcome := self._train(program, evaluator, state, first_step)).abandoned:
            with self._watchdog.phase("rolling back"):
                last_step = self._rollbacks.leave_out(outcome.abandoned, outcome.state.params)
                del outcome, state  # there is memory for one
                state, first_step = self._roll_back(last_step)
        # A signal during the last step changes nothing: the run is complete. All wait until it is.
        complete = self._peers.tell(
            self._is_first
            and outcome.step == composition.total_steps
            and _has_finished(self._directory.checkpoints, outcome.step, composition.total_steps)
        )
        request = 0 if complete else outcome.request
        if request == EARLY_STOP:
            say(f"{self._stopping.message}; everything is in {self._directory.root}")
            return Result(outcome.step, 0)
        say(
            f"stopped after step {outcome.step} of {composition.total_steps}; the same command continues"
            if request
            else f"finished {outcome.step} steps; everything is in {self._directory.root}"
        )
        return Result(outcome.step, request)

    def _train(
        self, program: Program, evaluator: Evaluator, state: TrainState, first_step: int
    ) -> Outcome:
        """The loop with all that writes around it, from a state on."""
        composition = self._composition
        with contextlib.ExitStack() as stack:
            write = self._open_writers(stack, first_step)
            hooks = self._hooks(stack, write, evaluator, first_step)
            batches = stack.enter_context(
                Prefetch(
                    composition.feed.batches(first_step),
                    composition.place,
                    depth=self._config.data.prefetch_batches,
                )
            )
            stack.enter_context(self._watchdog.phase(TRAINING))
            return train(
                program,
                state,
                batches,
                composition.signal_maker(),
                hooks,
                first_step=first_step,
                total_steps=composition.total_steps,
                queue=lambda: batches.queue,
            )

    def _roll_back(self, last_step: int) -> tuple[TrainState, int]:
        """The newest state up to `last_step`; what was saved after it is deleted, once that is restored."""
        checkpoints = self._directory.checkpoints
        wait_for_all("checkpoints are whole", self._composition.topology)
        state, first_step = self._restore_or_initialise(last_step)
        if first_step == 0:
            say("no checkpoint is from before that: starting again from step 1")
        for step in committed_steps(checkpoints) if self._is_first else ():
            if step > first_step:
                delete_checkpoint(checkpoints / str(step))
        return state, first_step

    def _check_metric(self, evaluator: Evaluator) -> None:
        metric = self._config.eval.metric
        if metric not in evaluator.metric_names:
            raise UserError(
                f"eval.metric={metric!r} is not measured by task={self._config.task}; choose one of: "
                f"{', '.join(evaluator.metric_names)}."
            )

    def _show(self, program: Program) -> None:
        composition, model = self._composition, self._composition.model.config
        preset = self._config.model.preset
        show_table(
            [
                ("devices", report.devices_line(composition.topology)),
                *[("data", line) for line in composition.data.summary],
                ("model", report.model_line(model, num_parameters(model), preset)),
                ("batch", report.batch_line(composition.shape, self._config.data.length)),
                ("compute", report.compute_line(composition.flops_per_step, program.compile_secs)),
                ("memory", report.memory_line(program.device_bytes, composition.topology)),
            ]
        )

    def _restore_or_initialise(self, last_step: int | None = None) -> tuple[TrainState, int]:
        """Resuming, from a checkpoint up to `last_step`, beats `init_from`, which beats fresh parameters."""
        composition, checkpoints = self._composition, self._directory.checkpoints
        state = restore_latest(
            checkpoints, composition.abstract_state, say, last_step, peers=self._peers
        )
        if state is not None:
            step = int(state.step)
            self._rollbacks.adopt(read_item(checkpoints / str(step), "data"), step)
            say(f"resuming from checkpoint {step} of {composition.total_steps} steps")
            return state, step
        state = composition.fresh_state()
        if self._config.init_from:
            start = start_from(self._config.init_from, state.params)
            # The step takes the state's buffers over, so no two leaves may share one.
            ema = None if state.ema is None else jax.tree.map(lambda leaf: leaf.copy(), start.params)
            state = state.replace(params=start.params, ema=ema)
            say(f"starting from {self._config.init_from}: {start.describe()}")
        return state, 0

    def _record_config(self, first_step: int) -> None:
        """Writes config.json; the one it replaces stays as config.<step>.json."""
        text = json.dumps(configuration.to_json(self._config), indent=2) + "\n"
        path = self._directory.config
        if path.is_file() and path.read_text() != text:
            shutil.copyfile(path, path.with_name(f"config.{first_step}.json"))
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text)
        partial.replace(path)  # whole at every moment: a kill must not leave a run without it
        save_vocabularies(self._composition.data.vocabularies, self._directory)

    def _open_writers(self, stack: contextlib.ExitStack, first_step: int) -> Write:
        """Opens what takes metrics; only the first process writes."""
        if not self._is_first:
            return lambda step, values: None
        truncate_after(self._directory.metrics, first_step)
        progress = stack.enter_context(ProgressLine(first_step, self._composition.total_steps))
        writers = [MetricsFile(self._directory.metrics), progress]
        if self._config.log.tensorboard:
            writers.append(TensorBoardWriter(self._directory.tensorboard, first_step))
        if self._config.log.wandb:
            writers.append(WandbWriter(self._directory.root, configuration.to_json(self._config)))
        for writer in writers:
            stack.callback(writer.close)

        def write(step: int, values: Mapping[str, float | str]) -> None:
            for writer in writers:
                writer.write(step, values)

        return write

    def _hooks(
        self, stack: contextlib.ExitStack, write: Write, evaluator: Evaluator, first_step: int
    ) -> list[Hook]:
        config, composition = self._config, self._composition
        last_step = composition.total_steps
        peak = peak_flops(composition.topology.kind)
        evaluating = Evaluating(
            Every(config.eval.every_steps, last_step),
            lambda state: evaluator(
                state.params if state.ema is None else state.ema,
                progress=self._watchdog.beat,
                request=self._preemption.request,
            ),
            write,
            self._owes_evaluation,
            self._record_metrics,
        )
        writer = CheckpointWriter(
            self._directory.checkpoints,
            retention_of(config),
            composition.abstract_state,
            async_save=config.checkpoint.async_save,
        )
        stack.callback(writer.close)
        checkpointing = Checkpointing(
            writer,
            Every(config.checkpoint.every_steps, last_step),
            self._rollbacks.data_state,
            configuration.to_json(config),
            evaluating.last_at,
            minutes=config.checkpoint.every_minutes,
            remaining_secs=self._preemption.remaining_secs,
            report=say,
        )
        hooks = [
            self._preemption,
            Watching(self._watchdog),
            Logging(
                Every(config.log.every_steps, last_step),
                write,
                flops_per_step=composition.flops_per_step,
                peak_flops=peak and peak * composition.topology.num_devices,
                batch_hash=config.log.batch_hash,
                shares=composition.feed.shares,
            ),
            Divergence(config.optim.max_skipped_in_a_row),
            # Before the checkpoint of the same step, which records its result.
            InPhase(evaluating, lambda: self._watchdog.phase("evaluating")),
            InPhase(checkpointing, lambda: self._watchdog.phase("saving a checkpoint")),
        ]
        if config.eval.patience:
            self._stopping = _early_stopping(config, self._directory, first_step, evaluating.last_at)
            hooks.append(self._stopping)
        if self._checksums:
            hooks.insert(0, self._consistency(checkpointing))
        if self._profile:
            profiling = Profiling(
                self._directory.profile, self._profile.after_step, self._profile.num_steps, say
            )
            hooks.append(InPhase(profiling, lambda: self._watchdog.phase("profiling")))
        return hooks

    def _owes_evaluation(self, step: int) -> bool:
        """Whether the checkpoint of this step was saved in the middle of its evaluation."""
        checkpoint = self._directory.checkpoints / str(step)
        return self._peers.tell(self._is_first and step > 0 and not read_manifest(checkpoint).metrics)

    def _record_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._is_first:
            record_metrics(self._directory.checkpoints / str(step), metrics)

    def _consistency(self, checkpointing: Checkpointing) -> Consistency:
        """The check of the replicas; before all hooks that use or save the state."""
        composition = self._composition
        return Consistency(
            self._checksums,
            [name for name, _ in named_leaves(composition.abstract_state)],
            composition.topology,
            Every(self._config.parallel.check_every_steps),
            checkpointing.wants_state,
        )
