"""Run token of a run in object storage: an object that is there until all processes have connected."""

import contextlib
import errno
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from jaxdp.parallel.run_token import NUM_BYTES, RunToken
from jaxdp.storage.object_store import ObjectExists, ObjectStore, StorageError

KEY = ".run_token"
"""Object of the token, in the work directory."""


class StoredToken(RunToken):
    """Token of one run, from the environment or from its object."""

    def __init__(self, store: ObjectStore, environment: Mapping[str, str] = os.environ):
        """Creates the object.

        Args:
            store: Work directory in object storage.
            environment: Environment variables.

        Raises:
            UserError: The token in the environment is too short.
        """
        super().__init__(Path(KEY), environment)
        self._store = store
        if not self._given:
            self.origin = f"{store.url}/{KEY}"

    def write(self) -> None:
        """Puts a new token; for process 0.

        Raises:
            StorageError: The store cannot be written.
        """
        if not self._given:
            self._store.put(KEY, secrets.token_bytes(NUM_BYTES))

    def write_if_missing(self) -> None:
        """Puts a token if there is none; see `RunToken.write_if_missing`.

        Raises:
            StorageError: The store cannot be written.
        """
        if not self._given:
            with contextlib.suppress(ObjectExists):
                self._store.put_new(KEY, secrets.token_bytes(NUM_BYTES))

    def read(self) -> bytes:
        """Returns the current token.

        Raises:
            OSError: The object is missing, or the store cannot be reached at the moment.
            StorageError: The store refuses to read it.
        """
        if self._given:
            return self._given
        try:
            return self._store.read(KEY)[0]
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        except StorageError as error:
            if not error.is_transient:
                raise
            raise OSError(errno.EIO, str(error).rstrip(".")) from error

    def discard(self) -> None:
        """Deletes the token, which no process needs any more.

        Raises:
            StorageError: The store cannot be written.
        """
        if not self._given:
            self._store.delete([KEY])
