"""The work directory of a run: the names in it, and the lock that keeps it to one run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxdp.errors import UserError
from jaxdp.lock import exclusive
from jaxdp.paths import resolved_path


class WorkDir:
    """Paths of a run; nothing is created by asking for one."""

    def __init__(self, root: str | Path, option: str = "--workdir"):
        """
        Args:
            root: Path of the directory.
            option: Name of the option that gives it, for messages.

        Raises:
            UserError: The path is empty or a URL, or leads through a loop of links.
        """
        self.root = resolved_path(root, option)
        self.config = self.root / "config.json"
        self.tokenizer = self.root / "tokenizer.json"
        self.target_tokenizer = self.root / "target_tokenizer.json"
        self.labels = self.root / "labels.json"
        self.evaluation = self.root / "evaluation.json"
        self.metrics = self.root / "metrics.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.tensorboard = self.root / "tensorboard"
        self.plots = self.root / "plots"
        self.logs = self.root / "logs"
        self.profile = self.root / "profile"

    def log(self, process_index: int) -> Path:
        """What one process says."""
        return self.logs / f"process_{process_index}.log"

    def create(self) -> None:
        """Makes the directory.

        Raises:
            UserError: it cannot be made or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write_probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"--workdir={self.root} cannot be written to ({error.strerror}); "
                "choose another directory or change its permissions."
            ) from error

    def require_run(self) -> None:
        """Raises UserError unless a run has been started here."""
        if not self.config.is_file():
            raise UserError(
                f"--workdir={self.root} holds no run ({self.config.name} is missing): "
                "train into it first, or check the path."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process.

        Raises:
            UserError: another process holds it; it is named.
        """

        def refuse(holder: str) -> None:
            raise UserError(
                f"--workdir={self.root} is in use by {holder}; "
                "wait for it, stop it, or choose another --workdir."
            )

        with exclusive(self.root / "run.lock", refuse):
            yield
