"""Run token: the secret by which the processes of a run authenticate on the control plane.

It is the environment variable JAXDP_RUN_TOKEN if set, the same for all processes;
otherwise 32 random bytes that process 0 writes into the work directory at every
start, readable by its user only.
"""

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from jaxdp.atomic_files import atomic_replacement
from jaxdp.errors import UserError

VARIABLE = "JAXDP_RUN_TOKEN"
MIN_CHARACTERS = 16
"""A shorter token could be guessed from one recorded proof."""

NUM_BYTES = 32


class RunToken:
    """Token of one run, from the environment or from its file."""

    def __init__(self, path: Path, environment: Mapping[str, str] = os.environ):
        """Creates the object.

        Args:
            path: File of the token; unused if the environment has one.
            environment: Environment variables.

        Raises:
            UserError: The token in the environment is too short.
        """
        self._path = path
        given = environment.get(VARIABLE)
        if given is not None and len(given) < MIN_CHARACTERS:
            raise UserError(
                f"the environment variable {VARIABLE} must have at least {MIN_CHARACTERS} characters, found "
                f"{len(given)}: set it to the same secret for all processes, such as one that `openssl rand -hex 32` "
                "prints, or unset it."
            )
        self._given = given.encode(errors="surrogateescape") if given else b""
        self.origin = VARIABLE if given else str(path)
        """Source of the token, for messages."""

    def write(self) -> None:
        """Writes a new token; for process 0, which holds the lock of the work directory.

        Raises:
            UserError: The file cannot be written.
        """
        if self._given:
            return
        with self._explaining(), atomic_replacement(self._path) as temporary:
            _write_new(temporary)

    def write_if_missing(self) -> None:
        """Writes a token if there is none, so that process 0 can notify the others that it cannot continue.

        Raises:
            UserError: The file cannot be written.
        """
        if not self._given:
            with self._explaining(), contextlib.suppress(FileExistsError):
                _write_new(self._path)

    def read(self) -> bytes:
        """Returns the current token.

        Raises:
            OSError: The file is missing or cannot be read.
            ValueError: The file has another length.
        """
        if self._given:
            return self._given
        # An NFS client caches for up to 30 s that a file is missing, unless the directory is
        # opened again.
        os.close(os.open(self._path.parent, os.O_RDONLY))
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            token = os.read(descriptor, NUM_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(token) != NUM_BYTES:
            raise ValueError(
                f"{self._path} must hold {NUM_BYTES} bytes, found {len(token)}{'' if len(token) < NUM_BYTES else ' or more'}"
            )
        return token

    def discard(self) -> None:
        """Ends the use of the token once all processes have connected; its file stays until the next start."""

    @contextlib.contextmanager
    def _explaining(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"process 0 cannot write {self._path} ({error.strerror}), with which the processes of this run authenticate: "
                f"remove what is in its place, or set the environment variable {VARIABLE} for all of them."
            ) from error


def _write_new(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(NUM_BYTES))
    finally:
        os.close(descriptor)
