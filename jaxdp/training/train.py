"""Entry point of `jaxdp train`: locks the work directory, prepares data, runs pre-flight checks, connects devices, trains."""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxdp import interrupts
from jaxdp.arguments import check_caller, check_type, shown
from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.config import ConfigLike, parse_config
from jaxdp.data.reading.python_records import keep_records
from jaxdp.errors import UserCodeError, UserError
from jaxdp.hardware.resources import ResourceSampler
from jaxdp.hooks.preemption import Preemption, Stopped
from jaxdp.hooks.registry import MakeHook, check_hook
from jaxdp.inference.initial_params import initial_checksum
from jaxdp.inference.trained_run import known_vocabularies
from jaxdp.parallel.clusters import check_coordinator, cluster_processes
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.processes import ALONE, Processes
from jaxdp.provenance import begin_entry
from jaxdp.report.goodput import PHASES
from jaxdp.report.terminal import print_status
from jaxdp.report.timeline import Timeline
from jaxdp.report.trackers.registry import check_packages
from jaxdp.report.writer_registry import MakeWriter, check_writer, is_writer
from jaxdp.report.writers import MetricsWriter
from jaxdp.run_config import RunConfig
from jaxdp.signatures import check_signature
from jaxdp.trainer import Hook
from jaxdp.training.memory_advice import advising_on_memory
from jaxdp.training.preflight import check_same, check_shared_directory, statement
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.process_start import join_processes
from jaxdp.training.remote_run import RemoteRun, mirrored, open_remote_run
from jaxdp.training.resource_readers import resource_readers
from jaxdp.training.result import Result, recorded_metrics
from jaxdp.training.resume import check_configuration, saved_config, steps_to_resume, why_it_is_over
from jaxdp.training.run_context import Profile, RunContext
from jaxdp.training.run_outputs import logging_to
from jaxdp.training.session import run_session
from jaxdp.training.setup import TrainingSetup
from jaxdp.training.survivors import advice_without_one
from jaxdp.training.user_sources import user_sources
from jaxdp.user_code import user_fault, user_place
from jaxdp.watchdog import PREPARATION_PATIENCE, Watchdog
from jaxdp.workdir import WorkDir


def train(
    config: ConfigLike,
    workdir: str | os.PathLike[str],
    *,
    resume: str = "auto",
    hooks: Sequence[Hook | MakeHook] = (),
    writers: Sequence[MetricsWriter | MakeWriter] = (),
    data: Iterable[Mapping[str, Any]] | None = None,
    handle_signals: bool = True,
    watchdog: bool = True,
    profile: Profile | None = None,
    processes: Processes | None = None,
) -> Result:
    """Trains a model in a work directory, from its newest checkpoint if there is one.

    Args:
        config: Configuration from `load_config`, or a dict of the keys that differ from the defaults.
        workdir: Work directory; made if missing; holds one run.
        resume: auto: continue if there is a checkpoint; must: refuse if there is
            none; never: refuse if there is one.
        hooks: Hooks that run in addition to the built-in and the registered ones, or functions from a `RunInfo` to
            a hook; the same on all processes. They run last unless they declare `before` or `after`.
        writers: Metrics writers with `write(step, values)` and `close()`, or functions from a `RunInfo` to a writer;
            used in the main process and closed at the end.
        data: Records as dicts, or a `datasets.Dataset`, in place of `data.source` and `data.path`: `data.*_column` name
            the columns. `data.name` becomes their fingerprint, and a run resumes with equal records only. An iterable
            is read once and kept in memory; all processes of a run are given the same records.
        handle_signals: Whether SIGTERM, SIGHUP and Ctrl-C save a checkpoint and stop the run. The handlers of the
            caller are restored at the end. Outside the main thread, to which Python delivers signals, there are none.
        watchdog: Whether a run without progress ends the process. False: nothing ends the process, as in a notebook.
        profile: Steps to trace.
        processes: Processes that train together; None: those that the environment of a cluster describes, or this one.

    Returns:
        Last step, metrics of the last evaluation, and the model, which is loaded at first use.

    Raises:
        UserError: Anything the user can fix.
    """
    check_caller("jaxdp.train")
    config = parse_config(config)
    if data is not None:
        config = _with_records(config, data)
    check_type("profile", profile, (Profile, type(None)), "a jaxdp.training.run_context.Profile or None")
    check_type("processes", processes, (Processes, type(None)), "a jaxdp.parallel.processes.Processes or None")
    open_run = OpenRun(
        as_parts(
            "hooks", hooks, lambda hook: isinstance(hook, Hook), "a jaxdp.Hook or a function that makes one", check_hook
        ),
        as_parts("writers", writers, is_writer, "a metrics writer or a function that opens one", check_writer),
        handle_signals,
        watchdog,
    )
    processes = processes or cluster_processes() or ALONE
    remote = open_remote_run(workdir, processes)
    directory = remote.directory if remote else WorkDir(workdir)
    directory.create()
    check_coordinator(processes)
    try:
        return _run(config, remote or directory, resume, profile, processes, open_run)
    except Stopped as stopped:
        steps = committed_steps(directory.checkpoints)
        print_status(
            f"stopped before step {steps[-1] + 1 if steps else 1}; the same command {'continues' if steps else 'starts again'}"
        )
        return Result(steps[-1] if steps else 0, stopped.number, interrupted=True, workdir=directory.root)


def _with_records(config: RunConfig, data: Iterable[Mapping[str, Any]]) -> RunConfig:
    """Returns the configuration of a run on records of the caller.

    Raises:
        UserError: The configuration has a mixture, which records do not replace.
    """
    if config.data.mixture:
        raise UserError("data=... is the only source of a run: set data.mixture=().")
    return config.replaced(data={"source": "python", "path": None, "name": keep_records(data)})


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """Extensions of a run that the caller of `train` gives; see its arguments."""

    hooks: Sequence[Hook | MakeHook]
    writers: Sequence[MetricsWriter | MakeWriter]
    handle_signals: bool
    watchdog: bool


def as_parts(
    name: str, given: Any, is_part: Callable[[Any], bool], expected: str, check: Callable[[Any], None]
) -> list:
    """Returns hooks or writers as a list, after checking each.

    Raises:
        UserError: One is neither a part nor a function that makes one, or it does not take its arguments.
    """
    if is_part(given) or callable(given) or not isinstance(given, Iterable):
        raise UserError(f"{name} must be a list of them, found {shown(given)}; write {name}=[...].")
    parts = list(given)
    for number, part in enumerate(parts):
        if not (is_part(part) or callable(part)):
            raise UserError(f"{name}[{number}] must be {expected}, found {shown(part)}.")
        if is_part(part):
            check(part)
        else:
            check_signature(f"{name}[{number}]", part, ["info"])
    return parts


def _run(
    config: RunConfig,
    place: RemoteRun | WorkDir,
    resume: str,
    profile: Profile | None,
    processes: Processes,
    open_run: OpenRun,
) -> Result:
    """Runs `train`, except for a signal before there is anything to save."""
    directory, mirror = place.directory if isinstance(place, RemoteRun) else place, None
    with contextlib.ExitStack() as stack:
        for writer in filter(is_writer, open_run.writers):
            stack.callback(writer.close)
        end_process = os._exit if open_run.watchdog else _stay
        preemption = Preemption(print_status, config.checkpoint.grace_secs, end_process=end_process)
        is_main_thread = threading.current_thread() is threading.main_thread()
        if open_run.handle_signals and is_main_thread:
            stack.enter_context(preemption)
        elif open_run.handle_signals:
            print_status(
                "training outside the main thread, to which Python delivers all signals: SIGTERM and Ctrl-C do not save a "
                "checkpoint; call jaxdp.train in the main thread for that"
            )
        remote = place if isinstance(place, RemoteRun) else None
        control_plane, check_place = join_processes(
            stack, processes, directory, config.parallel.init_timeout_secs, remote and remote.store
        )
        if remote:
            mirror, check_place = mirrored(stack, remote, control_plane, check_place)
        log = directory.log(control_plane.process_index)
        stack.enter_context(logging_to(log))
        stack.enter_context(_attributing_user_code(control_plane.num_processes))
        stack.enter_context(control_plane.explain_failures())
        timeline = stack.enter_context(_timeline(directory, control_plane))
        watchdog_secs = config.parallel.watchdog_secs if open_run.watchdog else 0.0
        watchdog = stack.enter_context(Watchdog(watchdog_secs, log, control_plane, on_phase=timeline.phase))
        control_plane.describe_by(watchdog.activity)
        finish_entry = begin_entry() if control_plane.is_main_process else dict
        if not remote:
            check_shared_directory(control_plane, directory)
        steps = steps_to_resume(directory, resume, clean=control_plane.is_main_process)
        with watchdog.phase("preparing the data", PREPARATION_PATIENCE):
            saved = saved_config(directory.checkpoints, steps)
            prepared = prepare_run(config, known_vocabularies(config, directory, steps), saved)
            config, total_steps = prepared.config, prepared.total_steps
            initial = initial_checksum(config) if config.init_from and not steps else None
            said = statement(config, prepared.data.identity, total_steps, initial)
            check_same(control_plane, user_sources(open_run.hooks) | said)
        if steps:
            check_configuration(config, directory, steps)
            if why := why_it_is_over(config, directory, steps[-1], total_steps, control_plane):
                print_status(why)
                timeline.complete()
                return Result(steps[-1], 0, metrics=recorded_metrics(directory, steps[-1]), workdir=directory.root)
        if control_plane.is_main_process:
            check_packages(config.log)  # compilation may take minutes
        if control_plane.num_processes > 1:
            preemption.hold(control_plane)  # JAX would abort the others if one left alone
        with watchdog.phase("connecting to the devices"):
            setup = TrainingSetup(prepared, processes, control_plane.broadcast)
        checkpoints = None if remote and control_plane.process_index else directory.checkpoints
        control_plane.advise_by(advice_without_one(checkpoints, setup.topology, config.global_batch_size))

        def provenance() -> dict[str, Any]:
            return finish_entry() | _topology_facts(setup.topology)

        readers = resource_readers(setup.topology) if config.log.resources_every_secs else ()
        resources = ResourceSampler(readers, config.log.resources_every_secs, print_status)
        stack.enter_context(resources)
        stack.enter_context(advising_on_memory(setup))
        return run_session(
            RunContext(
                setup, directory, preemption, watchdog, timeline, resources, control_plane, profile, check_place, provenance,
                open_run.hooks, open_run.writers, mirror,
            )
        )  # fmt: skip


def _timeline(directory: WorkDir, control_plane: ControlPlane) -> Timeline:
    """Returns the recorder of this start; the main process alone writes."""
    return Timeline(
        directory.timeline,
        directory.heartbeat,
        frozenset(PHASES),
        is_recorded=control_plane.is_main_process,
        begin=interrupts.command_start(),
    )


@contextlib.contextmanager
def _attributing_user_code(num_processes: int) -> Iterator[None]:
    """Converts an exception of the user's code to `UserCodeError`, whose sentence the other processes receive too."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if num_processes > 1 and (place := user_place(error)):
            raise UserCodeError(f"{user_fault(error, place)}.") from error
        raise


def _stay(exit_code: int) -> None:
    """Replaces `os._exit` where nothing may end the process."""


def _topology_facts(topology: Topology) -> dict[str, Any]:
    """Returns the part of the provenance that is known once the devices are connected."""
    devices = {"platform": topology.platform, "kind": topology.kind, "count": topology.num_devices}
    return {"devices": devices, "num_processes": topology.num_processes}
