"""Batches made ahead of the consumer by a background thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxdp.errors import UserError

CLOSE_SECS = 10.0  # a reader that hangs in a system call must not keep the process from ending


@dataclass(frozen=True)
class QueueState:
    """How the queue stood when the consumer came for its latest item.

    Attributes:
        depth: most items that are ready or in the making.
        num_ready: items that were ready, from 0 to `depth`.
        wait_secs: how long the consumer then waited.
    """

    depth: int
    num_ready: int
    wait_secs: float


class Prefetch(Iterator[Any]):
    """An iterator whose next `depth` items are read and transformed beforehand.

    An exception of `iterator` or `transform` is raised in the consumer, after the
    items that came before it, with the reader's traceback. Use it as a context
    manager, or call `close`.

    Args:
        iterator: the items; only the background thread touches it, and closes it.
        transform: applied to each item there, such as placing it on the devices.
        depth: largest number of items that are ready or in the making; 1 or more.

    Attributes:
        wait_secs: seconds that the consumer has waited so far.
        queue: how the queue stood at the latest `next`; before the first, empty.
    """

    def __init__(self, iterator: Iterable[Any], transform: Callable[[Any], Any], depth: int = 2):
        if depth < 1:
            raise UserError(f"data.prefetch_batches={depth} is too small: expected 1 or more.")
        self.wait_secs = 0.0
        self.queue = QueueState(depth, 0, 0.0)
        # In a generator expression a stray StopIteration of `transform` is an
        # error (PEP 479) and cannot pass for the end of the data.
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
            # Readers end here, in their own thread, not when the interpreter does:
            # by then `datasets` cannot close its files any more.
            self._items.close()

    def _offer(self, item: Any) -> None:
        # A function of its own: `_read` must not hold the item while it makes the next.
        with self._changed:
            if not self._closed:
                self._ready.append(item)
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Returns when an item may be made: True; or when closed: False."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self._depth)  # as after `close`
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
        """Stops the thread after the item it is at, and lets go of what is ready."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(CLOSE_SECS)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *exception) -> None:
        self.close()
