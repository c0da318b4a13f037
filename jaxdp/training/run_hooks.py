"""Hooks of a run: the built-in ones, those of the user, and their order."""

import contextlib
from collections.abc import Callable, Mapping, Sequence

from jaxdp.checkpoint.retention import BestSoFar, saved_metrics
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.config import to_json
from jaxdp.hardware.peaks import peak_flops
from jaxdp.hooks.checkpointing import Checkpointing
from jaxdp.hooks.consistency import Consistency
from jaxdp.hooks.divergence import Divergence
from jaxdp.hooks.early_stopping import EarlyStopping
from jaxdp.hooks.evaluating import Evaluating, LateEvaluations
from jaxdp.hooks.every import Every
from jaxdp.hooks.logging import Logging
from jaxdp.hooks.noise_scale import NoiseScale
from jaxdp.hooks.norms import Norms
from jaxdp.hooks.order import BUILT_IN_NAMES, in_order
from jaxdp.hooks.pacing import Pacing
from jaxdp.hooks.profiling import Profiling
from jaxdp.hooks.recording import Recording
from jaxdp.hooks.registry import make_own_hooks
from jaxdp.hooks.watching import InPhase, Watching
from jaxdp.inference.evaluator import Evaluator
from jaxdp.model import parameter_shapes
from jaxdp.optim.norms import entry_names
from jaxdp.parallel.layout import replicated_leaves
from jaxdp.report.evaluation_plots import draw_evaluation, has_plot
from jaxdp.report.terminal import log_values, print_status, show_cut
from jaxdp.report.writer_registry import RunInfo
from jaxdp.report.writers import MetricsFile
from jaxdp.trainer import Hook
from jaxdp.training.resume import early_stopping
from jaxdp.training.retention_rules import retention_of
from jaxdp.training.rollback import Rollbacks
from jaxdp.training.run_context import RunContext
from jaxdp.training.setup import Programs, TrainingSetup


def make_hooks(
    context: RunContext,
    programs: Programs,
    rollbacks: Rollbacks,
    writer: CheckpointWriter,
    info: RunInfo,
    stalled_secs: Callable[[], float],
) -> list[Hook]:
    """Returns all hooks, in the order in which the loop calls them.

    Args:
        context: Context of the run.
        programs: Programs that evaluate and that compare the replicas.
        rollbacks: Position of the run in the data.
        writer: Writer of checkpoints.
        info: Facts of the run, with the function that takes metrics.
        stalled_secs: Returns the seconds in which this process was not executed; used with several processes.
    """
    config = context.setup.config
    stopping: list[EarlyStopping] = []
    evaluating = _evaluating(context, programs.evaluator, info, stopping)
    checkpointing = _checkpointing(context, rollbacks, writer, evaluating)
    pacing = _pacing(context, stalled_secs)
    hooks = [
        context.preemption, Watching(context.watchdog), Recording(context.timeline),
        _logging(context, writer, info, pacing),
        Divergence(config.optim.max_skipped_in_a_row), evaluating, checkpointing,
    ]  # fmt: skip
    if pacing:
        hooks.append(pacing)
    if config.log.norms_every_steps:
        hooks.append(_norms(context, info))
    if config.eval.patience:
        higher_is_better = bool(context.setup.metric.higher_is_better)
        stopping.append(
            early_stopping(config, context.directory, info.first_step, evaluating.last_at, higher_is_better)
        )
        hooks += stopping
    if programs.checksums:
        hooks.append(_consistency(context.setup, programs, checkpointing))
    if profile := context.profile:
        hooks.append(
            Profiling(
                context.directory.profile, profile.after_step, profile.num_steps, print_status, context.check_place
            )
        )
    own = make_own_hooks(context.hooks, info)
    ordered = in_order(hooks, own, absent=BUILT_IN_NAMES)
    return [InPhase(hook, context.watchdog) if hook.phase or hook in own else hook for hook in ordered]


def _evaluating(
    context: RunContext, evaluator: Evaluator, info: RunInfo, stopping: Sequence[EarlyStopping]
) -> Evaluating:
    """Returns the hook that evaluates the EMA parameters, or the parameters of a run without them, and shows samples.

    A run that early stopping ends has its last evaluation; one that a user's hook ends is evaluated after the last step.
    """
    setup = context.setup

    def write_and_show(step: int, metrics: Mapping[str, float]) -> None:
        info.write(step, metrics)
        if info.is_main_process:
            samples = evaluator.reports.get("score", {}).get("samples", ())
            for sample in samples:
                show_cut(tuple(sample.items()))
            if samples:
                info.write_samples(step, samples)
            summary = evaluator.reports.get("summary", {})
            if has_plot(summary):
                info.write_figure(step, "eval/report", lambda: draw_evaluation(summary, context.directory.root.name))

    def evaluates_stop() -> bool:
        return context.control_plane.broadcast(
            setup.config.eval.every_steps > 0 and not any(hook.is_exhausted for hook in stopping)
        )

    return Evaluating(
        Every(setup.config.eval.every_steps, setup.total_steps),
        lambda state: evaluator(
            setup.strategy.eval_params(state),
            progress=context.watchdog.beat,
            request=context.preemption.request,
        ),
        write_and_show,
        LateEvaluations(context.directory.checkpoints, context.control_plane, context.check_place),
        evaluates_stop,
    )


def _checkpointing(
    context: RunContext, rollbacks: Rollbacks, writer: CheckpointWriter, evaluating: Evaluating
) -> Checkpointing:
    config = context.setup.config
    retention = retention_of(config, bool(context.setup.metric.higher_is_better))
    best = BestSoFar(retention, saved_metrics(context.directory.checkpoints))
    return Checkpointing(
        writer,
        Every(config.checkpoint.every_steps, context.setup.total_steps),
        rollbacks.data_state,
        to_json(config),
        evaluating,
        # Process 0 alone knows for certain what is saved, and deletes it.
        is_best=(lambda step, metrics: context.control_plane.broadcast(best.add(step, metrics)))
        if retention.keep_best
        else None,
        minutes=config.checkpoint.every_minutes,
        preemption=context.preemption,
    )


def _norms(context: RunContext, info: RunInfo) -> Norms:
    setup, path = context.setup, context.directory.norms

    def write(step: int, values: Mapping[str, float]) -> None:
        if info.is_main_process:
            context.check_place()
            with contextlib.closing(MetricsFile(path)) as file:
                file.write(step, values)

    names = entry_names(parameter_shapes(setup.model.config))
    return Norms(Every(setup.config.log.norms_every_steps, setup.total_steps), names, write)


def _pacing(context: RunContext, stalled_secs: Callable[[], float]) -> Pacing | None:
    """Returns the hook that names the slowest process; None for a single one."""
    if context.control_plane.num_processes == 1:
        return None
    every = Every(context.setup.config.log.every_steps, context.setup.total_steps)
    return Pacing(every, context.control_plane, stalled_secs, print_status)


def _logging(context: RunContext, writer: CheckpointWriter, info: RunInfo, pacing: Pacing | None) -> Logging:
    setup = context.setup
    peak = peak_flops(setup.topology.kind)
    num_sequences = setup.config.global_batch_size

    def further(first: int, last: int) -> dict[str, float]:
        """Returns shares of sources, the slowest process, and what was sampled since the line before."""
        slowest, sampled = pacing.metrics if pacing else {}, context.resources.take()
        if sampled and not info.is_main_process:  # metrics.jsonl has those of the main process
            log_values(f"resources at step {last}", sampled)
        return {**setup.loader.shares(first, last), **slowest, **sampled, **writer.take_metrics()}

    return Logging(
        Every(setup.config.log.every_steps, setup.total_steps),
        info.write,
        flops_per_step=setup.flops_per_step,
        peak_flops=peak and peak * setup.topology.num_devices,
        batch_hash=setup.config.log.batch_hash,
        bytes_on_wire=setup.bytes_on_wire,
        noise_scale=NoiseScale(num_sequences // setup.topology.num_devices, num_sequences)
        if setup.config.log.noise_scale
        else None,
        further=further,
    )


def _consistency(setup: TrainingSetup, programs: Programs, checkpointing: Checkpointing) -> Consistency:
    assert programs.checksums is not None, "compiled for a run that checks its replicas"
    return Consistency(
        programs.checksums,
        [name for name, _ in replicated_leaves(setup.placement.abstract, setup.placement.layout)],
        setup.topology,
        Every(setup.config.parallel.check_every_steps),
        checkpointing.wants_state,
    )
