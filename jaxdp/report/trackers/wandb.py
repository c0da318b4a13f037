"""Weights & Biases: one run over all restarts, recorded offline where the service cannot be reached."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.redact import mask_environment
from jaxdp.report.terminal import print_status
from jaxdp.report.trackers.run_record import RunRecord
from jaxdp.report.trackers.tracker import Tracker, columns_of, hyperparameters, import_package, project_of
from jaxdp.report.writer_registry import RunInfo
from jaxdp.report.writers import Value

INIT_SECS, FINISH_SECS, FLUSH_SECS = 15.0, 40.0, 2.0
"""Time to reach the service before the run is recorded offline, to upload the rest at the end, and until a point is on disk."""


class WandbTracker(Tracker):
    """Tracker that writes to a Weights & Biases run, whose id is kept in WORKDIR/wandb/run_id.

    The service keeps the first value of each step; a resumed run does not send steps again. WANDB_MODE=offline, or a
    machine without an API key, records into WORKDIR/wandb, from where `wandb sync` sends it later.
    """

    holds_last_step = True

    def __init__(self, info: RunInfo, record: RunRecord):
        """Starts or continues the W&B run.

        Args:
            info: Facts of the run.
            record: Run id.

        Raises:
            UserError: The extra `wandb` is not installed.
        """
        self._wandb: Any = import_package("wandb", "wandb")
        log = info.config.log
        # Neither the terminal nor the command line and the repository's address go to the service: they may hold secrets.
        settings = self._wandb.Settings(
            silent=True, console="off", x_disable_meta=True, disable_git=True, disable_code=True,
            init_timeout=INIT_SECS, finish_timeout=FINISH_SECS, x_transaction_log_flush_interval=FLUSH_SECS,
        )  # fmt: skip
        arguments = {
            "project": project_of(info, "WANDB_PROJECT"),
            "entity": log.wandb_entity,
            "group": log.wandb_group,
            "tags": list(log.wandb_tags) or None,
            "name": os.environ.get("WANDB_NAME") or info.workdir.name,
            "id": record.run_id,
            "resume": "allow",
            "dir": str(info.workdir),
            "config": hyperparameters(info)[0],
            "allow_val_change": True,
            "settings": settings,
        }
        self._run = self._start(arguments)
        if self._run.offline:
            print_status(f"wandb records offline; send it with: wandb sync {self._directory()}")
        elif self._run.url:
            print_status(f"wandb: {self._run.url}")

    def _start(self, arguments: Mapping[str, Any]) -> Any:
        """Returns the W&B run, an offline one if there is no API key or the service does not answer."""
        mode = os.environ.get("WANDB_MODE")
        if not mode:
            self._wandb.setup(self._wandb.Settings(silent=True))
            # Without a key `init` would ask for one at the terminal.
            mode = "online" if self._wandb.login(prompt=False, verify=False) else "offline"
        try:
            return self._wandb.init(mode=mode, **arguments)
        except self._wandb.Error as error:
            why = " ".join(mask_environment(str(error), os.environ).split())[:200]
            print_status(f"wandb cannot be reached ({why})")
            self._wandb.teardown()  # its service holds the run id of the failed attempt
            return self._wandb.init(mode="offline", **arguments)

    def _directory(self) -> Path:
        return Path(self._run.dir).parent

    def last_step(self) -> int:
        """Returns the last step that the service had when the run was resumed; -1 for an offline or a new run."""
        return self._run.step - 1 if self._run.resumed else -1

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Logs the values at `step`."""
        self._run.log(dict(values), step=step)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Logs the samples as a table."""
        columns, rows = columns_of(samples)
        self._run.log({"samples": self._wandb.Table(columns=columns, data=rows)}, step=step)

    def write_figure(self, step: int, name: str, png: bytes) -> None:
        """Logs the picture."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "figure.png")
            path.write_bytes(png)
            self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Waits until everything is uploaded."""
        self._run.finish()
