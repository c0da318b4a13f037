"""TensorBoard event files: scalars, texts, figures and hyperparameters, without the points that a resume repeats."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdp.report.trackers.tracker import Tracker, hyperparameters, import_package
from jaxdp.report.writer_registry import RunInfo
from jaxdp.report.writers import Value

FLUSH_SECS = 2
"""Longest time until a point is on disk, in the thread of tensorboardX."""


class TensorBoardTracker(Tracker):
    """Tracker that writes WORKDIR/tensorboard.

    Each start writes a file of its own. Its first event makes TensorBoard drop the points of earlier files after the
    restored step, which is 0 for a run that was killed before its first checkpoint.
    """

    def __init__(self, info: RunInfo, record: None = None):
        """Opens a new event file.

        Args:
            info: Facts of the run.
            record: Unused: event files are purged, not continued.

        Raises:
            UserError: The extra `tensorboard` is not installed.
        """
        tensorboard = import_package("tensorboardX", "tensorboard")
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # a warning for each NaN
        directory = str(info.workdir / "tensorboard")
        self._writer = tensorboard.SummaryWriter(directory, purge_step=info.first_step + 1, flush_secs=FLUSH_SECS)
        config, flat = hyperparameters(info)
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```", info.first_step)
        summary = import_package("tensorboardX.summary", "tensorboard")
        for part in summary.hparams({name: _plain(value) for name, value in flat.items()}, {}):
            self._writer.file_writer.add_summary(part, info.first_step)

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Adds numbers as scalars and strings as text."""
        for name, value in values.items():
            add = self._writer.add_text if isinstance(value, str) else self._writer.add_scalar
            add(name, value, step)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Adds the samples as one text."""
        texts = ("\n\n".join(f"**{name}**\n\n```\n{text}\n```" for name, text in each.items()) for each in samples)
        self._writer.add_text("samples", "\n\n---\n\n".join(texts), step)

    def write_figure(self, step: int, name: str, png: bytes) -> None:
        """Adds the picture as an image."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


def _plain(value: Any) -> float | bool | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
