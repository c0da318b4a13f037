"""Context of one process start: components, work directory, signal handling and watchdog."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdp.checkpoint.mirror import Mirror
from jaxdp.checkpoint.retention import CheckPlace
from jaxdp.hardware.resources import ResourceSampler
from jaxdp.hooks.preemption import Preemption
from jaxdp.hooks.registry import MakeHook
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.report.timeline import Timeline
from jaxdp.report.writer_registry import MakeWriter
from jaxdp.report.writers import MetricsWriter
from jaxdp.trainer import Hook
from jaxdp.training.setup import TrainingSetup
from jaxdp.watchdog import Watchdog
from jaxdp.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class Profile:
    """Profiler trace of `num_steps` steps after step `after_step`."""

    after_step: int
    num_steps: int


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Components of a run that are settled before the first program is compiled.

    Attributes:
        setup: Parts of the run.
        directory: Work directory.
        preemption: Hook that receives signals.
        watchdog: Watchdog, which ends the process if a phase exceeds its limit.
        timeline: Recorder of how the run spends its time.
        resources: Sampler of memory, CPU and GPU.
        control_plane: Control plane of the run's processes; the main process writes.
        profile: Steps to trace.
        check_place: Check before every write into the work directory; raises UserError if it no longer is the
            directory that this run has locked.
        provenance: Function that returns the provenance of this start, as a checkpoint records it.
        hooks: Hooks that were given to `jaxdp.train`, or functions that make them.
        writers: Metrics writers that were given to `jaxdp.train`, or functions that open them.
        mirror: Mirror of a work directory in object storage; None: the directory is on a disk of this machine.
    """

    setup: TrainingSetup
    directory: WorkDir
    preemption: Preemption
    watchdog: Watchdog
    timeline: Timeline
    resources: ResourceSampler
    control_plane: ControlPlane
    profile: Profile | None
    check_place: CheckPlace
    provenance: Callable[[], Mapping[str, Any]]
    hooks: Sequence[Hook | MakeHook] = ()
    writers: Sequence[MetricsWriter | MakeWriter] = ()
    mirror: Mirror | None = None
