"""`jaxdp train`: the work directory held, data prepared, processes agreed, devices connected; then a session."""

import contextlib
import os
import threading
from typing import Any

from jaxdp.arguments import check_caller, check_type
from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.config import ConfigLike, parse_config
from jaxdp.hooks.preemption import Preemption, Stopped
from jaxdp.inference.initial_params import initial_checksum
from jaxdp.inference.trained_run import known_vocabularies
from jaxdp.parallel.clusters import check_coordinator, cluster_processes
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.processes import ALONE, Processes
from jaxdp.provenance import begin_entry
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.training.preflight import check_same, check_shared_directory, statement
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.process_start import join_processes
from jaxdp.training.resume import check_configuration, steps_to_resume, why_it_is_over
from jaxdp.training.run_context import Profile, RunContext
from jaxdp.training.run_outputs import logging_to
from jaxdp.training.session import Result, run_session
from jaxdp.training.setup import TrainingSetup
from jaxdp.watchdog import PREPARATION_PATIENCE, Watchdog
from jaxdp.workdir import WorkDir


def run(
    config: ConfigLike,
    workdir: str | os.PathLike,
    *,
    resume: str = "auto",
    profile: Profile | None = None,
    processes: Processes | None = None,
) -> Result:
    """Trains `config` in `workdir`, from its newest checkpoint if there is one.

    Args:
        config: From `load_config`, or a dict of the keys that differ from the defaults.
        workdir: made if missing; holds one run.
        resume: auto: continue if there is a checkpoint; must: refuse if there is
            none; never: refuse if there is one.
        profile: which steps to trace.
        processes: None: those that the cluster's environment tells of, or this one alone.

    Raises:
        UserError: anything the user can fix.
    """
    check_caller("jaxdp.train")
    config = parse_config(config)
    check_type("profile", profile, (Profile, type(None)), "a jaxdp.training.run_context.Profile or None")
    check_type("processes", processes, (Processes, type(None)), "a jaxdp.parallel.processes.Processes or None")
    directory = WorkDir(workdir)
    directory.create()
    processes = processes or cluster_processes() or ALONE
    check_coordinator(processes)
    try:
        return _run(config, directory, resume, profile, processes)
    except Stopped as stopped:
        steps = committed_steps(directory.checkpoints)
        print_status(f"stopped before step {steps[-1] + 1 if steps else 1}; the same command {'continues' if steps else 'starts again'}")
        return Result(steps[-1] if steps else 0, stopped.number, interrupted=True)


def _run(
    config: RunConfig, directory: WorkDir, resume: str, profile: Profile | None, processes: Processes
) -> Result:
    """`run` but for a signal before there is anything to save."""
    with contextlib.ExitStack() as stack:
        preemption = Preemption(print_status, config.checkpoint.grace_secs)
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(preemption)
        else:
            print_status(
                "training outside the main thread, to which Python delivers all signals: SIGTERM and Ctrl-C do not save a "
                "checkpoint; call jaxdp.train in the main thread for that"
            )
        control_plane, check_place = join_processes(stack, processes, directory, config.parallel.init_timeout_secs)
        log = directory.log(control_plane.process_index)
        stack.enter_context(logging_to(log))
        stack.enter_context(control_plane.explain_failures())
        watchdog = stack.enter_context(Watchdog(config.parallel.watchdog_secs, log))
        finish_entry = begin_entry() if control_plane.is_main_process else dict
        check_shared_directory(control_plane, directory)
        steps = steps_to_resume(directory, resume, clean=control_plane.is_main_process)
        with watchdog.phase("preparing the data", PREPARATION_PATIENCE):
            prepared = prepare_run(config, known_vocabularies(config, directory, steps))
            config, total_steps = prepared.config, prepared.total_steps
            initial = initial_checksum(config.init_from) if config.init_from and not steps else None
            check_same(control_plane, statement(config, prepared.data.identity, total_steps, initial))
        if steps:
            check_configuration(config, directory, steps)
            if why := why_it_is_over(config, directory, steps[-1], total_steps, control_plane):
                print_status(why)
                return Result(steps[-1], 0)
        if control_plane.num_processes > 1:
            preemption.hold(control_plane)  # JAX would abort the others if one left alone
        with watchdog.phase("connecting to the devices"):
            setup = TrainingSetup(prepared, processes)

        def provenance() -> dict[str, Any]:
            return finish_entry() | _topology_facts(setup.topology)

        return run_session(RunContext(setup, directory, preemption, watchdog, control_plane, profile, check_place, provenance))


def _topology_facts(topology: Topology) -> dict[str, Any]:
    """The part of a start's provenance that is known once the devices are."""
    devices = {"platform": topology.platform, "kind": topology.kind, "count": topology.num_devices}
    return {"devices": devices, "num_processes": topology.num_processes}
