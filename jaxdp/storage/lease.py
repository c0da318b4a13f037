"""Lease of a work directory in object storage: a lock that expires unless its holder renews it.

The lease is one object. It is created by a conditional put and replaced only where it is the version that was read, so
of two processes that take it one fails. Its holder renews it in the background and, before each write, whenever its
time is nearly over. A holder that is gone stops renewing; another process takes the lease over once it has
expired.

A clock of another machine may be wrong. A lease that expired long ago by this machine's clock is taken over at once;
one whose time is not clearly over is watched: if it is renewed, its holder is alive and the new process is refused, and if it
is not renewed for its whole duration, it is taken over.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from jaxdp.errors import UserError
from jaxdp.storage.lease_content import KEY, described, local_time, parsed
from jaxdp.storage.object_store import ObjectChanged, ObjectExists, ObjectStore, StorageError, Tag

DURATION_SECS = 90.0
"""Time that a lease lasts after it was renewed."""

RENEW_SECS = 15.0
"""Time between renewals."""

MARGIN_SECS = 45.0
"""Time that must be left when a write begins; longer than a request, which so cannot reach the store after another process
has taken the lease over."""

SKEW_SECS = 60.0
"""Difference between the clocks of two machines up to which an expired lease is watched before it is taken over."""

POLL_SECS = 2.0
"""Time between two looks at the lease of another process."""


_NO_VERSION = "1"
"""Version that no object has: an entity tag, or a generation of Google Cloud Storage."""


class LeaseLost(UserError):
    """Another process has taken over the lease of the work directory, so this run may write nothing more."""

    exit_code = 70


class Lease:
    """Lease that this process holds; a context manager that renews it in the background and releases it at the end.

    Attributes:
        session: Random text that tells this lease from every other one.
        previous: `session` of the lease before; "" if there was none.
    """

    def __init__(
        self,
        store: ObjectStore,
        holder: str,
        option: str = "--workdir",
        *,
        print_status: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Acquires the lease.

        Args:
            store: Work directory.
            holder: Name under which a later process of the same place may take over a lease that was not released; its
                caller must exclude that the earlier process is alive.
            option: Name of the option that gives the work directory, for messages.
            print_status: Prints a message.
            clock: Returns the time in Unix seconds; replaced in tests.
            sleep: Waits for seconds; replaced in tests.

        Raises:
            UserError: Another process holds the lease, and the message names it; or the store has no conditional puts.
            StorageError: The store cannot be reached or written.
        """
        self._store, self._holder, self._option, self._print_status = store, holder, option, print_status
        self._clock, self._sleep = clock, sleep
        self._start, self.session = clock(), secrets.token_hex(8)
        self._lock = threading.Lock()
        self._ended, self._lost = threading.Event(), ""
        self.previous = ""
        self._tag = self._acquire()
        self._thread = threading.Thread(target=self._renew_until_end, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._check_conditional_puts()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._lost:
            try:
                self._replace(is_released=True)
            except (StorageError, LeaseLost) as failure:
                self._print_status(f"the lease of {self._store.url} was not released ({failure}); it expires by itself")

    def check(self) -> None:
        """Raises LeaseLost if another process is known to have taken over the lease; makes no request."""
        if self._lost:
            raise LeaseLost(self._lost)

    def ensure(self) -> None:
        """Makes sure that the lease lasts longer than a write, by renewing it if necessary.

        Raises:
            LeaseLost: Another process has taken it over.
            StorageError: It had to be renewed, and the store cannot be reached.
        """
        self.check()
        if self._clock() > self._expires - MARGIN_SECS:
            self._replace()

    def _acquire(self) -> Tag:
        end, first_tag = 0.0, None
        while True:
            try:
                content, tag = self._store.read(KEY)
            except FileNotFoundError:
                try:
                    return self._store.put_new(KEY, self._content())
                except ObjectExists:
                    continue
            found = parsed(content)
            now = self._clock()
            if not self._may_take(found, now):
                if first_tag is None:
                    first_tag, end = tag, min(now + DURATION_SECS, found["expires"] + SKEW_SECS)
                    self._print_status(
                        f"{self._store.url} is leased by {described(found)}; waiting up to {end - now:.0f} s for that to end"
                    )
                elif tag != first_tag:
                    raise UserError(
                        f"{self._option}={self._store.url} is in use by {described(found)}, which holds its lease until "
                        f"{local_time(found['expires'])} and renews it; wait for it, stop it, or choose another {self._option}."
                    )
                if now < end:
                    self._sleep(min(POLL_SECS, end - now))
                    continue
            try:
                tag = self._store.replace(KEY, self._content(), tag)
            except ObjectChanged:
                continue
            self.previous = found["session"]
            return tag

    def _may_take(self, found: Mapping[str, Any], now: float) -> bool:
        return found["released"] or found["holder"] == self._holder or now > found["expires"] + SKEW_SECS

    def _check_conditional_puts(self) -> None:
        """Raises UserError if the store ignores the condition of a put, so that two processes could hold the lease."""
        try:
            self._store.put_new(KEY, self._content())
        except ObjectExists:
            try:
                self._store.replace(KEY, self._content(), {name: _NO_VERSION for name in self._tag})
            except ObjectChanged:
                return
        self._store.delete([KEY])
        raise UserError(
            f"{self._option}={self._store.url}: the server ignores the condition of a put (If-None-Match, If-Match), so nothing "
            f"would keep two runs apart; use a server that supports it, or choose another {self._option}."
        )

    def _content(self, is_released: bool = False) -> bytes:
        self._expires = self._clock() + DURATION_SECS
        return json.dumps(
            {
                "holder": self._holder,
                "host": socket.gethostname(),
                "process_id": os.getpid(),
                "start_time": self._start,
                "expires": self._expires,
                "released": is_released,
                "session": self.session,
                "nonce": secrets.token_hex(8),  # equal contents would have equal entity tags
            }
        ).encode()

    def _replace(self, is_released: bool = False) -> None:
        """Renews or releases the lease."""
        with self._lock:
            self.check()
            before = self._expires
            try:
                try:
                    self._tag = self._store.replace(KEY, self._content(is_released), self._tag)
                except ObjectChanged:
                    self._tag = self._own_version()  # of an earlier request whose answer was lost
                    self._tag = self._store.replace(KEY, self._content(is_released), self._tag)
            except ObjectChanged:
                self._expires, self._lost = before, self._lost_sentence()
                self.check()
            except StorageError:
                self._expires = before
                raise

    def _own_version(self) -> Tag:
        """Returns the version in the store if this object wrote it; otherwise raises ObjectChanged."""
        try:
            content, tag = self._store.read(KEY)
        except FileNotFoundError as error:
            raise ObjectChanged(KEY) from error
        if parsed(content)["session"] != self.session:
            raise ObjectChanged(KEY)
        return tag

    def _lost_sentence(self) -> str:
        try:
            holder = described(parsed(self._store.read(KEY)[0]))
        except FileNotFoundError:
            holder = "nobody: its object was deleted"
        return (
            f"the lease of {self._store.url} now belongs to {holder}, so this run stops and writes nothing more to it; "
            "its state is in the checkpoints there."
        )

    def _renew_until_end(self) -> None:
        is_failing = False
        while not self._ended.wait(RENEW_SECS):
            try:
                self._replace()
                is_failing = False
            except LeaseLost:
                return  # `check` raises it in the threads that write
            except StorageError as error:
                if not is_failing:
                    self._print_status(f"the lease cannot be renewed at the moment, trying again: {error}")
                is_failing = True
