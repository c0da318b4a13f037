"""Outputs of a run next to its checkpoints: log, configuration, provenance and metrics."""

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxdp.atomic_files import write_atomically
from jaxdp.checkpoint.config_history import config_in_force, kept_name
from jaxdp.config import to_json
from jaxdp.data.vocabularies import save_vocabularies
from jaxdp.errors import UserError
from jaxdp.inference.starting_parameters import StartingParameters
from jaxdp.inference.trained_run import has_own_tokenizer
from jaxdp.interop.model_source import keep_files
from jaxdp.provenance import add_entry
from jaxdp.redact import redact
from jaxdp.report.terminal import ProgressLine, print_status
from jaxdp.report.trackers.background import Background, drawn_once
from jaxdp.report.trackers.registry import open_trackers
from jaxdp.report.writer_registry import RunInfo, is_writer, open_own_writers
from jaxdp.report.writers import MetricsFile, MetricsWriter, plain_values, truncate_after
from jaxdp.training.run_context import RunContext
from jaxdp.user_code import user_place, user_sentence
from jaxdp.workdir import WorkDir


class _LogFile(logging.FileHandler):
    """Log file that is dropped when its disk is full: its messages are on the terminal too."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger("jaxdp").removeHandler(self)
        print_status(
            f"{self.baseFilename} can no longer be written ({sys.exc_info()[1]}); the rest goes to the terminal alone"
        )


class _LogFormat(logging.Formatter):
    """Lines of the log with their time, without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


@contextlib.contextmanager
def logging_to(log: Path) -> Iterator[None]:
    """Writes messages to a log file too."""
    log.parent.mkdir(exist_ok=True)
    handler = _LogFile(log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_LogFormat("%(asctime)s %(message)s"))
    logger = logging.getLogger("jaxdp")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    except UserError as error:
        logger.error(str(error))
        raise
    except Exception as error:
        place = user_place(error)
        logger.exception(user_sentence(error, place) if place else "internal error")
        raise
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # its disk may be full, which `_LogFile` has reported
            handler.close()


def record_config(context: RunContext, first_step: int) -> None:
    """Writes config.json, with the vocabularies; the one in force before stays as config.<first_step>.json."""
    context.check_place()
    data, directory = context.setup.data, context.directory
    text = json.dumps(to_json(context.setup.config), indent=2) + "\n"
    _keep_config(directory, first_step, text)
    write_atomically(directory.config, text)  # a kill must not leave a run without it
    save_vocabularies(data.vocabularies, directory, replace=first_step == 0)
    config = context.setup.config
    if config.init_from and first_step == 0 and not has_own_tokenizer(config):
        keep_files(config.init_from, directory)


def _keep_config(directory: WorkDir, first_step: int, text: str) -> None:
    """Keeps the configuration in force before this start, unless it is the new one."""
    before = directory.root / (config_in_force(directory, first_step) if first_step else directory.config.name)
    kept = directory.root / kept_name(first_step)
    if before == kept or not before.is_file():
        return
    if kept.exists() or before.read_bytes() != text.encode():
        shutil.copyfile(before, kept)  # one that exists is of steps that were lost


def record_initial(context: RunContext, initial: StartingParameters) -> None:
    """Writes init.json: the source of the initial parameters, and the origin of each."""
    context.check_place()
    write_atomically(context.directory.initial, json.dumps(initial.to_json(), indent=1) + "\n")


def record_provenance(context: RunContext, first_step: int) -> None:
    """Adds this start to provenance.json.

    Raises:
        UserError: It cannot be written.
    """
    context.check_place()
    try:
        add_entry(context.directory.provenance, {**context.provenance(), "first_step": first_step}, print_status)
    except OSError as error:
        raise UserError(
            f"{context.directory.provenance} cannot be written ({error.strerror}); make room, or change its permissions, "
            "then run the same command again."
        ) from error


@contextlib.contextmanager
def run_info(context: RunContext, first_step: int) -> Iterator[RunInfo]:
    """Opens the metrics writers of the main process and yields the facts of the run, with the function that takes metrics."""
    config, directory, is_main = context.setup.config, context.directory, context.control_plane.is_main_process
    writers: list[MetricsWriter] = []

    def write(step: int, values: Mapping[str, float | str]) -> None:
        values = plain_values(values)
        if not is_main:
            return
        context.check_place()
        for writer in writers:
            writer.write(step, values)

    trackers: list[Background] = []

    def write_samples(step: int, samples: Sequence[Mapping[str, str]]) -> None:
        for tracker in trackers:
            tracker.write_samples(step, samples)

    def write_figure(step: int, name: str, draw: Callable[[], bytes]) -> None:
        drawn = drawn_once(draw)
        for tracker in trackers:
            tracker.write_figure(step, name, drawn)

    total_steps = context.setup.total_steps
    info = RunInfo(config, directory.root, first_step, total_steps, is_main, write, write_samples, write_figure)
    if not is_main:
        yield info
        return
    context.check_place()
    for path in (directory.metrics, directory.norms):
        truncate_after(path, first_step)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(ProgressLine(first_step, total_steps))

        def add(writer: MetricsWriter) -> None:
            writers.append(writer)
            stack.callback(writer.close)

        add(MetricsFile(directory.metrics))
        add(progress)
        for tracker in open_trackers(info):
            add(tracker)
            trackers.append(tracker)
        for writer in open_own_writers([given for given in context.writers if not is_writer(given)], info):
            add(writer)
        writers.extend(given for given in context.writers if is_writer(given))  # `jaxdp.train` closes them at its end
        yield info
