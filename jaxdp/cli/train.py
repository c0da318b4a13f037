"""Training of a configuration, or continuation of the run in --workdir."""

import argparse
import atexit
import contextlib
import os
import re
from collections.abc import Sequence

from jaxdp import interrupts, streams
from jaxdp.cli import options as shared
from jaxdp.config import to_json
from jaxdp.errors import UserError
from jaxdp.run_config import RunConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp train`."""
    shared.add_config(parser, required=False)
    shared.add_workdir(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|must|never",
        help="auto: continue if there is a checkpoint; must: require one; never: refuse one",
    )
    parser.add_argument(
        "--profile", metavar="STEP:COUNT", help="profile COUNT steps after step STEP into WORKDIR/profile"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="prepare data, compile and report, then print the resolved configuration as JSON without training",
    )
    processes = parser.add_argument_group("several processes (automatic under SLURM, Open MPI and on Cloud TPU pods)")
    processes.add_argument("--coordinator", metavar="HOST:PORT", help="address on which process 0 listens")
    processes.add_argument("--num_processes", type=int, metavar="P", help="number of processes")
    processes.add_argument("--process_index", type=int, metavar="I", help="index of this process, from 0")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp train` and returns the exit code."""
    try:
        return _run(options, rest)
    except UserError:
        if not options.dry_run:
            _record_refusal(options.workdir)
        raise


def _run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    config = shared.configuration(options, rest)
    profile = _profile(options.profile)
    if options.dry_run:
        return _dry_run(config, options)
    from jaxdp.hooks.preemption import exit_code
    from jaxdp.parallel.processes import Processes
    from jaxdp.training.run_context import Profile
    from jaxdp.training.train import train

    try:
        result = train(
            config,
            options.workdir,
            resume=options.resume,
            profile=profile and Profile(*profile),
            processes=_processes(options, Processes),
        )
    except SystemExit as stop:
        # A code that is no number means what it means to the interpreter.
        _end_without_cleaning_up(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
        raise
    code = exit_code(result.request)
    if result.interrupted:
        _end_without_cleaning_up(code)
    return code


def _record_refusal(workdir: str) -> None:
    """Records the refusal in the timeline of the run, so that its time does not count as downtime."""
    from jaxdp.report.timeline import record_refusal
    from jaxdp.workdir import WorkDir

    if "://" not in workdir:
        with contextlib.suppress(UserError):  # the path itself may be what was refused
            record_refusal(WorkDir(workdir).timeline, interrupts.command_start())


def _dry_run(config: RunConfig, options: argparse.Namespace) -> int:
    if (options.coordinator, options.num_processes, options.process_index) != (None, None, None):
        raise UserError("--dry_run runs in one process; leave --coordinator, --num_processes and --process_index out.")
    from jaxdp.training.dry_run import dry_run

    shared.show_json(to_json(dry_run(config, options.workdir)), indent=2)
    return 0


def _end_without_cleaning_up(exit_code: int) -> None:
    """Ends the process with this code, without the interpreter's shutdown.

    When JAX was interrupted while tracing or compiling, one shutdown in four ended
    in a segmentation fault, which has another exit code.
    """

    def end() -> None:
        streams.flush()
        os._exit(exit_code)

    atexit.register(end)


def _profile(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    if not match:
        raise UserError(f"--profile={text} must be STEP:COUNT, both at least 1, such as 20:5.")
    return int(match[1]), int(match[2])


def _processes(options: argparse.Namespace, processes):
    given = (options.coordinator, options.num_processes, options.process_index)
    if given == (None, None, None):
        return None
    if None in given:
        raise UserError("--coordinator, --num_processes and --process_index go together; give all three.")
    if options.num_processes < 1:
        raise UserError(f"--num_processes={options.num_processes} must be at least 1.")
    if not 0 <= options.process_index < options.num_processes:
        raise UserError(
            f"--process_index={options.process_index} must be at least 0 and below "
            f"--num_processes={options.num_processes}."
        )
    return processes(options.num_processes, options.process_index, options.coordinator)
