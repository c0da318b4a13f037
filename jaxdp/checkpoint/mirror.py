"""Base of the mirrors of a run in object storage: publication in the background, and repetition of what fails."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from jaxdp.checkpoint.destination import Destination
from jaxdp.storage.lease import LeaseLost
from jaxdp.storage.object_store import ObjectStore, StorageError, StorageLost

PUBLISH_SECS = 60.0
"""Longest time between two publications of the shared files."""

MAX_OUTAGE_SECS = 600.0
"""Time for which a run repeats a failed operation before it stops."""

MAX_DELAY_SECS = 30.0
"""Longest delay between two attempts."""

Value = TypeVar("Value")
"""Result of an operation of the store."""


class Mirror(Destination):
    """Directory on this machine whose changes are published; a context manager that does so in the background and at its end."""

    def __init__(
        self,
        store: ObjectStore,
        print_status: Callable[[str], None],
        what_remains: str,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ):
        """Creates the base.

        Args:
            store: Work directory in object storage.
            print_status: Prints a message.
            what_remains: Sentence without a period about where the state is if the store stays unreachable.
            clock: Returns the time in seconds; replaced in tests.
            sleep: Waits for seconds; replaced in tests.
        """
        self._store, self._print_status, self._what_remains = store, print_status, what_remains
        self._clock, self._sleep = clock, sleep
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish_until_end, name="run-mirror", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if isinstance(error, StorageError | StorageLost | LeaseLost):
            return
        try:
            self.publish()
        except (StorageError, StorageLost, LeaseLost) as failure:
            if error is None:
                raise
            self._print_status(f"{self._store.url} does not have the last changes of this run: {failure}")

    def publish(self) -> None:
        """Puts what has changed in this directory; repeats what fails for a transient reason.

        Raises:
            LeaseLost: Another run has taken over the work directory.
            StorageLost: The store stayed unreachable.
            StorageError: The store refuses a change.
        """
        self._repeated(self._publish)

    def fetch(self, step: int) -> None:
        """Downloads the files of a checkpoint that are missing or changed in this directory.

        Raises:
            DamageFound: The checkpoint in the store is damaged.
            StorageLost: The store stayed unreachable.
        """
        raise NotImplementedError

    def _publish(self) -> None:
        """Puts everything that has changed."""
        self._publish_shared()

    def _publish_shared(self) -> None:
        """Puts the shared files that have changed since they were published."""
        raise NotImplementedError

    def _repeated(self, operation: Callable[[], Value]) -> Value:
        start, delay = self._clock(), 1.0
        while True:
            try:
                with self._lock:
                    return operation()
            except StorageError as error:
                if not error.is_transient:
                    raise
                if self._clock() - start > MAX_OUTAGE_SECS:
                    raise StorageLost(
                        f"{str(error).rstrip('.')} (repeated for {MAX_OUTAGE_SECS / 60:.0f} min). Nothing is lost: "
                        f"{self._what_remains}."
                    ) from error
                if delay == 1.0:
                    self._print_status(f"trying again for up to {MAX_OUTAGE_SECS / 60:.0f} min: {error}")
            self._sleep(delay)
            delay = min(2 * delay, MAX_DELAY_SECS)

    def _publish_until_end(self) -> None:
        """Publishes the shared files at intervals; what fails is repeated at the next one, and at the next checkpoint."""
        wait, is_failing = PUBLISH_SECS, False
        while not self._ended.wait(wait):
            start = self._clock()
            try:
                with self._lock:
                    self._publish_shared()
                is_failing = False
            except (StorageError, LeaseLost) as error:
                if not is_failing:
                    self._print_status(f"{self._store.url} does not have the newest metrics at the moment: {error}")
                is_failing = True
            wait = max(PUBLISH_SECS, 50 * (self._clock() - start))  # files of a long run are large
