"""A lock between processes that outlives none of them."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(path: Path, on_busy: Callable[[str], None]) -> Iterator[None]:
    """Holds a lock file for this process.

    The kernel gives an flock back when its holder dies, however it dies, so a
    lock file that outlived its process is no obstacle. Network file systems
    that share flock between hosts protect across hosts too.

    Args:
        path: the file, made if missing and left there.
        on_busy: called with a description of the holder when there is one;
            raises to give up, returns to wait.
    """
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            on_busy(_described(file.read()))
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "process_id": os.getpid(), "start_time": time.time()}, file)
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
