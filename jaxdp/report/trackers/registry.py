"""Registry of experiment trackers: name of the switch in the group `log`, package and class of each."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxdp.config import to_json
from jaxdp.report.trackers.background import DEFAULT_WAITS, Background, Waits
from jaxdp.report.trackers.mlflow import MlflowTracker
from jaxdp.report.trackers.run_record import RunRecord
from jaxdp.report.trackers.tensorboard import TensorBoardTracker
from jaxdp.report.trackers.tracker import Tracker, require_package
from jaxdp.report.trackers.trackio import TrackioTracker
from jaxdp.report.trackers.wandb import WandbTracker
from jaxdp.report.writer_registry import IN_BACKGROUND, WRITERS, RunInfo
from jaxdp.run_config import LogConfig


class TrackerSpec(NamedTuple):
    """Declaration of a tracker.

    Attributes:
        package: Module that it needs, of the extra with the name of the tracker.
        make: Function from the facts of the run and the `RunRecord`, None with `repeats`, to the open tracker.
        repeats: Whether it has no record and is sent all steps again, since it drops the earlier ones itself.
    """

    package: str
    make: Callable[[RunInfo, Any], Tracker]
    repeats: bool = False


TRACKERS = {
    "tensorboard": TrackerSpec("tensorboardX", TensorBoardTracker, repeats=True),
    "wandb": TrackerSpec("wandb", WandbTracker),
    "trackio": TrackerSpec("trackio", TrackioTracker),
    "mlflow": TrackerSpec("mlflow", MlflowTracker),
}
"""Trackers by the name of their switch and extra; their files are in WORKDIR/NAME."""


def check_packages(config: LogConfig) -> None:
    """Raises UserError unless the packages of all trackers that the configuration switches on are installed."""
    for name, spec in _wanted(config).items():
        require_package(spec.package, name)


def _wanted(config: LogConfig) -> dict[str, TrackerSpec]:
    return {name: spec for name, spec in TRACKERS.items() if getattr(config, name)}


def open_trackers(info: RunInfo, waits: Waits = DEFAULT_WAITS) -> Iterator[Background]:
    """Opens the trackers that the configuration switches on and the registered ones, each in a thread of its own.

    Args:
        info: Facts of the run.
        waits: Durations of the threads.

    Raises:
        UserError: The package of one is not installed.
    """
    metrics = info.workdir / "metrics.jsonl"
    check_packages(info.config.log)
    for name, spec in _wanted(info.config.log).items():
        record = None if spec.repeats else RunRecord(info.workdir / name, to_json(info.config), info.first_step)
        yield Background(name, lambda spec=spec, record=record: spec.make(info, record), record, metrics, waits)
    for name in sorted(IN_BACKGROUND & WRITERS.keys()):
        yield Background(name, lambda make=WRITERS[name]: make(info), None, metrics, waits)
