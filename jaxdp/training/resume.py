"""Resume checks: the checkpoints of a work directory, and whether a command may continue its run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import (
    MANIFEST,
    check_resumes,
    committed_steps,
    find_damage,
    read_item,
    read_manifest,
    require_manifest,
)
from jaxdp.checkpoint.metric_records import recorded_metric
from jaxdp.checkpoint.retention import remove_leftovers, set_aside, without_manifest
from jaxdp.checkpoint.run_files import with_preset
from jaxdp.config import to_json
from jaxdp.config_diff import check_resumable
from jaxdp.errors import DamageFound, UserError
from jaxdp.hooks.early_stopping import EarlyStopping
from jaxdp.hooks.every import Every
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.report.terminal import print_status
from jaxdp.report.writers import iterate_metrics
from jaxdp.run_config import RunConfig
from jaxdp.workdir import WorkDir

RESUME_MODES = ("auto", "must", "never")


def steps_to_resume(directory: WorkDir, resume: str, *, clean: bool) -> list[int]:
    """Returns the checkpointed steps that a run may continue from.

    Args:
        directory: Work directory of the run.
        resume: One of RESUME_MODES.
        clean: Whether to remove leftovers of interrupted saves and deletions, and to set aside
            checkpoints without a manifest.

    Raises:
        UserError: `resume` is unknown, or does not fit the checkpoints that exist.
    """
    if resume not in RESUME_MODES:
        raise UserError(f"--resume={resume} is unknown; choose one of: {', '.join(RESUME_MODES)}.")
    steps = committed_steps(directory.checkpoints)
    if resume == "never" and steps:
        raise UserError(
            f"--resume=never, but --workdir={directory.root} holds checkpoints "
            f"{', '.join(map(str, steps))}; "
            "use another --workdir, or --resume=auto to continue."
        )
    if steps and (newest := read_manifest(directory.checkpoints / str(steps[-1]))) is not None:
        check_resumes(directory.checkpoints / str(steps[-1]), newest)
    if resume == "must" and not steps:
        raise UserError(f"--resume=must, but {directory.checkpoints} holds no checkpoint; check --workdir.")
    for name in remove_leftovers(directory.checkpoints) if clean else ():
        print_status(f"removed {directory.checkpoints / name}, which an interrupted save or deletion left behind")
    for path in without_manifest(directory.checkpoints) if clean else ():
        print_status(
            f"{path} has no {MANIFEST}, so nothing tells whether it is whole; it is set aside as {set_aside(path)}"
        )
    return steps


def check_configuration(config: RunConfig, directory: WorkDir, steps: Sequence[int]) -> None:
    """Compares a configuration with that of the run's checkpoints.

    Args:
        config: Resolved configuration.
        directory: Work directory of the run.
        steps: Steps of its checkpoints.

    Raises:
        UserError: The configuration describes another run.
    """
    saved = saved_config(directory.checkpoints, steps)
    if saved is not None:
        check_resumable(with_preset(saved), to_json(config), directory.root)


def saved_config(checkpoints: Path, steps: Sequence[int]) -> Mapping[str, Any] | None:
    """Returns the configuration in the newest checkpoint where it is undamaged."""
    for step in reversed(steps):
        try:
            return read_item(checkpoints / str(step), "config")
        except DamageFound:
            continue  # restoring names it and sets it aside
    return None


def why_it_is_over(
    config: RunConfig, directory: WorkDir, step: int, total_steps: int, control_plane: ControlPlane
) -> str | None:
    """Returns the reason why the run is complete after its newest checkpoint; None if it is not.

    A collective call: all processes make it, and process 0 decides.
    """
    if control_plane.broadcast(
        control_plane.is_main_process and has_finished(directory.checkpoints, step, total_steps)
    ):
        return f"{directory.place} has finished its {step} steps; a larger total_steps continues it."
    higher_is_better = bool(recorded_metric(directory.checkpoints, config.eval.metric).higher_is_better)
    stopping = early_stopping(config, directory, step, lambda step: {}, higher_is_better)
    if control_plane.broadcast(control_plane.is_main_process and step < total_steps and stopping.is_exhausted):
        return f"{directory.place} has {stopping.message}; a larger eval.patience continues it."
    return None


def has_finished(
    checkpoints: Path,
    step: int,
    total_steps: int,
    is_intact: Callable[[Path], bool] = lambda checkpoint: not find_damage(checkpoint),
) -> bool:
    """Checks whether an undamaged checkpoint is past the end of the run, or at it with its evaluation.

    Args:
        checkpoints: Directory of the checkpoints.
        step: Step of the checkpoint.
        total_steps: Steps of the run.
        is_intact: Function that checks its integrity; by default all its files are read.
    """
    if step < total_steps or not is_intact(checkpoints / str(step)):
        return False
    return step > total_steps or bool(require_manifest(checkpoints / str(step)).metrics)


def early_stopping(
    config: RunConfig,
    directory: WorkDir,
    step: int,
    evaluated: Callable[[int], Mapping[str, float]],
    higher_is_better: bool,
) -> EarlyStopping:
    """Returns the hook that counts evaluations without a better metric, including those in metrics.jsonl up to this step.

    Raises:
        UserError: A line of metrics.jsonl is not a JSON object with a step; half a last one is left out.
    """
    needs_history = config.eval.patience and directory.metrics.is_file()
    history = iterate_metrics(directory.metrics, config.eval.metric) if needs_history else ()
    return EarlyStopping(
        Every(config.eval.every_steps),
        config.eval.metric,
        config.eval.patience,
        evaluated,
        (values for values in history if values["step"] <= step),
        higher_is_better=higher_is_better,
    )
