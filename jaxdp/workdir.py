"""The work directory of a run: the names in it, and the lock that keeps it to one run."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jaxdp.errors import UserError


class WorkDir:
    """Paths of a run; nothing is created by asking for one."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().resolve()
        self.config = self.root / "config.json"
        self.tokenizer = self.root / "tokenizer.json"
        self.metrics = self.root / "metrics.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.tensorboard = self.root / "tensorboard"
        self.plots = self.root / "plots"
        self.logs = self.root / "logs"
        self.profile = self.root / "profile"

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

        The kernel gives an flock back when its holder dies, however it dies, so
        a lock file that outlived its process is no obstacle. Network file
        systems that share flock between hosts protect across hosts too.

        Raises:
            UserError: another process holds it; it is named.
        """
        path = self.root / "run.lock"
        with open(path, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"--workdir={self.root} is in use by {_described(file.read())}; "
                    "wait for it, stop it, or choose another --workdir."
                ) from None
            file.truncate(0)
            json.dump(
                {"host": socket.gethostname(), "process_id": os.getpid(), "start_time": time.time()},
                file,
            )
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)


def _described(text: str) -> str:
    try:
        holder = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["start_time"]))
        return f"process {holder['process_id']} on {holder['host']}, started {since}"
    except (ValueError, KeyError, TypeError):  # it is being written just now
        return "another process"
