"""One start of a run: its parts, where it writes, and what watches over it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdp.checkpoint.retention import CheckPlace
from jaxdp.hooks.preemption import Preemption
from jaxdp.hooks.registry import MakeHook
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.report.writer_registry import MakeWriter
from jaxdp.report.writers import MetricsWriter
from jaxdp.trainer import Hook
from jaxdp.training.setup import TrainingSetup
from jaxdp.watchdog import Watchdog
from jaxdp.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class Profile:
    """Trace `num_steps` steps after step `after_step`."""

    after_step: int
    num_steps: int


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What is settled before the first program is compiled.

    Attributes:
        setup: the parts of the run.
        directory: its work directory.
        preemption: hears signals.
        watchdog: ends the process when it hangs; told of every phase.
        control_plane: Control plane of the run's processes; the main process writes.
        profile: which steps to trace.
        check_place: called before every write into the work directory; raises UserError
            where that no longer is the directory that this run has locked.
        provenance: returns the entry of this start, as a checkpoint records it.
        hooks: Hooks that were given to `jaxdp.train`, or functions that make them.
        writers: Metrics writers that were given to `jaxdp.train`, or functions that open them.
    """

    setup: TrainingSetup
    directory: WorkDir
    preemption: Preemption
    watchdog: Watchdog
    control_plane: ControlPlane
    profile: Profile | None
    check_place: CheckPlace
    provenance: Callable[[], Mapping[str, Any]]
    hooks: Sequence[Hook | MakeHook] = ()
    writers: Sequence[MetricsWriter | MakeWriter] = ()
