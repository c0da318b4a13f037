"""trackio: local experiment tracking in SQLite, or on a Hugging Face Space or a server of one's own."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.report.trackers.run_record import RunRecord
from jaxdp.report.trackers.tracker import Tracker, hyperparameters, import_package, project_of
from jaxdp.report.writer_registry import RunInfo
from jaxdp.report.writers import Value


class TrackioTracker(Tracker):
    """Tracker that writes a trackio run, which the same name continues after a restart.

    The data are in TRACKIO_DIR, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say; `trackio show` reads them.
    """

    def __init__(self, info: RunInfo, record: RunRecord):
        """Starts or continues the trackio run.

        Args:
            info: Facts of the run.
            record: Run id. The name has eight of its digits, so that no two work directories share a run.

        Raises:
            UserError: The extra `trackio` is not installed.
        """
        self._trackio: Any = import_package("trackio", "trackio")
        with contextlib.redirect_stdout(io.StringIO()):  # stdout carries results only
            self._run = self._trackio.init(
                project=project_of(info, "TRACKIO_PROJECT"),
                name=f"{info.workdir.name}-{record.run_id[:8]}",
                group=info.config.log.wandb_group or os.environ.get("WANDB_RUN_GROUP"),
                config=hyperparameters(info)[1] | {"tags": ", ".join(info.config.log.wandb_tags)},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Logs the values at `step`."""
        self._run.log(dict(values), step=step)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Logs the samples as Markdown."""
        texts = ("\n\n".join(f"**{name}**\n\n```\n{text}\n```" for name, text in each.items()) for each in samples)
        self._run.log({"samples": self._trackio.Markdown("\n\n---\n\n".join(texts))}, step=step)

    def write_figure(self, step: int, name: str, png: bytes) -> None:
        """Logs the picture."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._run.log({name: self._trackio.Image(picture.convert("RGB"))}, step=step)

    def close(self) -> None:
        """Waits until everything is written."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
