"""Work directory of a run: file names, checks, and the lock that limits it to one run at a time."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxdp.errors import UserError
from jaxdp.json_files import why_no_file
from jaxdp.lock import exclusive
from jaxdp.paths import check_unicode, resolved_path


class WorkDir:
    """Paths of a run; constructing it creates nothing on disk.

    Attributes:
        url: URL in object storage whose files are here on this machine; None: there is none.
    """

    url: str | None = None

    def __init__(self, root: str | os.PathLike[str], option: str = "--workdir", url: str | None = None):
        """Creates the object.

        Args:
            root: Path of the directory.
            option: Name of the option that gives it, for messages.
            url: URL of the work directory in object storage that this is the mirror of; None: it is none.

        Raises:
            UserError: The path is empty or a URL, or leads through a loop of links.
        """
        self.root = resolved_path(root, option)
        if url is not None:
            self.url = url
        self.config = self.root / "config.json"
        self.provenance = self.root / "provenance.json"
        self.initial = self.root / "init.json"
        self.tokenizer = self.root / "tokenizer.json"
        self.target_tokenizer = self.root / "target_tokenizer.json"
        self.labels = self.root / "labels.json"
        self.named_files = self.root / "named_files.json"
        self.evaluation = self.root / "evaluation.json"
        self.metrics = self.root / "metrics.jsonl"
        self.norms = self.root / "norms.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.proofs = self.root / ".intact_checkpoints.json"
        self.tensorboard = self.root / "tensorboard"
        self.plots = self.root / "plots"
        self.logs = self.root / "logs"
        self.timeline = self.logs / "timeline.jsonl"
        self.heartbeat = self.logs / "heartbeat.json"
        self.profile = self.root / "profile"
        self.hugging_face = self.root / "hugging_face"
        self.run_token = self.root / ".run_token"

    @property
    def place(self) -> str:
        """Path or URL of the run, for messages."""
        return self.url or str(self.root)

    def log(self, process_index: int) -> Path:
        """Returns the log file of a process."""
        return self.logs / f"process_{process_index}.log"

    def create(self) -> None:
        """Creates the directory.

        Raises:
            UserError: It cannot be created or written to, or TensorStore does not accept its name.
        """
        check_unicode(self.root, "--workdir")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write_probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"--workdir={self.root} cannot be a directory, since a file has its place or that of one above it: choose "
                "another path, or move the file away."
            ) from error
        except OSError as error:
            raise UserError(
                f"--workdir={self.root} cannot be written to ({error.strerror}); "
                "choose another directory or change its permissions."
            ) from error
        self._check_kinds()

    def _check_kinds(self) -> None:
        """Raises UserError if a path of the run is of another kind, such as a named pipe, which would block."""
        directories = (
            self.checkpoints, self.tensorboard, self.plots, self.logs, self.profile, self.hugging_face,
        )  # fmt: skip
        logs = self.logs.glob("process_*.log") if self.logs.is_dir() else ()
        for path in (
            *(value for value in vars(self).values() if isinstance(value, Path) and value != self.root),
            *logs,
        ):
            expected, is_kind = (
                ("a directory", stat.S_ISDIR) if path in directories else ("a regular file", stat.S_ISREG)
            )
            try:
                found = is_kind(os.stat(path).st_mode)
            except FileNotFoundError:
                found = not path.is_symlink()  # a link to nothing cannot be written through
            except OSError as error:
                raise UserError(f"{path} cannot be used ({error.strerror}); move away what is there.") from error
            if not found:
                raise UserError(f"{path} must be {expected} of the run, found something else; move it away.")

    def why_no_run(self) -> str:
        """States why no run has been started here; "" if one has."""
        if self.root.exists() and not self.root.is_dir():
            return "it is no directory"
        why = why_no_file(self.config)
        return why and f"{self.config.name} {why}"

    def require_run(self) -> None:
        """Raises UserError unless the directory holds a run."""
        if why := self.why_no_run():
            is_lost = os.path.lexists(self.config)
            fix = (
                "restore it from a copy, or from a checkpoint (`jaxdp inspect CHECKPOINT --json`)"
                if is_lost
                else "train into it first, or check the path"
            )
            raise UserError(f"--workdir={self.root} holds no run ({why}): {fix}.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Locks the directory for this process.

        Yields:
            A function to call before every write into the directory. It raises
            UserError after the directory or its lock file was deleted, moved or
            replaced, since the path may then belong to another run.

        Raises:
            UserError: Another process, which the message names, holds the lock; or locking fails.
        """

        def refuse(holder: str) -> None:
            raise UserError(
                f"--workdir={self.place} is in use by {holder}; wait for it, stop it, or choose another --workdir."
            )

        path = self.root / "run.lock"
        with contextlib.ExitStack() as stack:
            try:
                is_held = stack.enter_context(exclusive(path, refuse))
            except OSError as error:
                raise UserError(f"{path} cannot be locked ({error.strerror}); {_fix_of(error)}.") from error

            def check_held() -> None:
                if not is_held():
                    raise UserError(
                        f"--workdir={self.root} was deleted, moved or replaced while this run trained in it ({path.name} "
                        "there is not the file that this run has locked), so this run stops and writes nothing more "
                        "to it; choose another --workdir to train again."
                    )

            yield check_held


def _fix_of(error: OSError) -> str:
    """Returns the fix for a lock file that cannot be locked."""
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return "its file system supports no locks (flock): enable them on the mount, or choose another --workdir"
    if error.errno in (errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP):
        return "it must be a regular file: move away what is there"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there, or choose another --workdir"
    return "change its permissions, or choose another --workdir"
