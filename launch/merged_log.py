"""Merged log of the processes of a run, on stderr and in its work directory."""

import os
from pathlib import Path

MAX_PENDING_BYTES = 2**24
"""Size of the lines that are kept in memory until the work directory exists."""


class MergedLog:
    """Log of all processes, on stderr and in WORKDIR/logs/merged.log.

    The file is opened once jaxdp has created the work directory, since a refused configuration
    must leave nothing behind; until then its lines are kept in memory.

    Args:
        workdir: Work directory of the run; None or a remote one: no file.
    """

    def __init__(self, workdir: str | None):
        self._workdir = None if workdir is None or "://" in workdir else Path(workdir).expanduser()
        self._file: int | None = None
        self._pending = b""
        self._has_terminal = True

    def say(self, text: str) -> None:
        """Logs a message of the supervisor."""
        self.write(f"jaxdp: {text}".encode())

    def write(self, line: bytes) -> None:
        """Writes one line, without its end, by a single system call for each destination."""
        line += b"\n"
        if self._has_terminal:
            try:
                _write_all(2, line)
            except OSError:  # the terminal is gone; the run and the file continue
                self._has_terminal = False
        if self._workdir is not None:
            self._pending = (self._pending + line)[-MAX_PENDING_BYTES:]
            self._write_pending(self._workdir)

    def _write_pending(self, workdir: Path) -> None:
        try:
            if self._file is None:
                if not workdir.is_dir():
                    return
                (workdir / "logs").mkdir(exist_ok=True)
                self._file = os.open(workdir / "logs/merged.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            _write_all(self._file, self._pending)
            self._pending = b""
        except OSError as error:
            self._workdir = None
            self.say(f"{workdir}/logs/merged.log cannot be written ({error.strerror}); its lines go to stderr only")


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
