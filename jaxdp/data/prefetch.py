"""Prefetch of batches in a background thread, with queue statistics."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxdp.errors import UserError

CLOSE_SECS = 10.0  # a reader that hangs in a system call must not keep the process from exiting


@dataclass(frozen=True)
class QueueState:
    """State of the queue when the consumer asked for its latest item.

    Attributes:
        depth: Maximum number of items that are ready or in progress.
        num_ready: Number of items that were ready, 0 to `depth`.
        wait_secs: Seconds that the consumer then waited.
    """

    depth: int
    num_ready: int
    wait_secs: float


class Prefetch(Iterator[Any]):
    """Iterator whose next `depth` items are read and transformed ahead.

    An exception of `iterator` or `transform` is raised in the consumer, after the items before it, with the traceback of
    the reader. Use it as a context manager, or call `close`.

    Args:
        iterator: Items; only the background thread reads and closes it.
        transform: Function applied to each item in the thread, such as placing it on the devices.
        depth: Maximum number of items that are ready or in progress, 1 or more.

    Attributes:
        wait_secs: Seconds that the consumer has waited so far.
        queue: State of the queue at the latest `next`; empty before the first.
    """

    def __init__(self, iterator: Iterable[Any], transform: Callable[[Any], Any], depth: int = 2):
        if depth < 1:
            raise UserError(f"data.prefetch_batches={depth} is too small: expected 1 or more.")
        self.wait_secs = 0.0
        self.queue = QueueState(depth, 0, 0.0)
        # A stray StopIteration of `transform` is an error in a generator expression
        # (PEP 479) and cannot be mistaken for the end of the data.
        self._items = (transform(item) for item in iterator)
        self._depth = depth
        self._ready: deque[Any] = deque()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._finished = False  # the reader adds nothing more
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="jaxdp-prefetch", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while self._wait_for_room():
                self._offer(next(self._items))
        except StopIteration:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()
            # Readers are closed here, in their own thread: at interpreter exit
            # `datasets` cannot close its files any more.
            self._items.close()

    def _offer(self, item: Any) -> None:
        # A separate function, so that `_read` holds no reference to the item while it makes the next.
        with self._changed:
            if not self._closed:
                self._ready.append(item)
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Waits until an item may be made; returns False if closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self._depth)  # also true after `close`
            return not self._closed

    def __next__(self) -> Any:
        start = time.perf_counter()
        with self._changed:
            num_ready = len(self._ready)
            self._changed.wait_for(lambda: self._ready or self._finished or self._closed)
            self.queue = QueueState(self._depth, num_ready, time.perf_counter() - start)
            self.wait_secs += self.queue.wait_secs
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
        if self._failure is not None and not self._closed:
            raise self._failure
        raise StopIteration

    def close(self) -> None:
        """Stops the thread after its current item, and discards ready items."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(CLOSE_SECS)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *exception) -> None:
        self.close()
