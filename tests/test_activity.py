"""Activity of a thread: the line of its code, and whether it waits for devices or other processes."""

import threading
from types import SimpleNamespace

import pytest

from jaxdp import activity
from jaxdp.activity import place_of


def in_thread(function):
    """Returns `place_of` a thread inside the function, whose argument is a function that blocks."""
    inside, go_on = threading.Event(), threading.Event()

    def blocks():
        inside.set()
        go_on.wait(60)

    thread = threading.Thread(target=function, args=(blocks,))
    thread.start()
    inside.wait(60)
    try:
        return place_of(thread.ident)
    finally:
        go_on.set()
        thread.join()


def test_code_that_blocks_in_python_itself_does_not_wait_for_others():
    place, waits = in_thread(lambda blocks: blocks())
    assert place.endswith("in blocks") and "test_activity.py:" in place and not waits


@pytest.mark.parametrize(
    ("frames", "place", "waits"),
    [
        (["jax._src.array:_value", "jax._src.api:device_get", "jaxdp.trainer:finish"], "jaxdp.trainer.py:1 in finish", True),
        (["jaxlib.xla:run", "jax._src.compiler:backend_compile", "jaxdp.trainer:f"], "jaxdp.trainer.py:1 in f", False),
        (["jaxdp.parallel.control_plane:_next_answer", "jaxdp.x:f"], "jaxdp.parallel.control_plane.py:1 in _next_answer", True),
        (["threading:wait", "jaxdp.data.prefetch:__next__", "jaxdp.trainer:f"], "jaxdp.data.prefetch.py:1 in __next__", False),
        (["threading:wait", "jax._src.api:f", "own:f"], "own.py:1 in f", False),
        (["time:sleep"], "time.py:1 in sleep", False),
        ([], "no code", False),
    ],
)  # fmt: skip
def test_a_thread_inside_jax_waits_unless_it_compiles(monkeypatch, frames, place, waits):
    below = None
    for frame in reversed(frames):
        module, name = frame.split(":")
        code = SimpleNamespace(co_name=name, co_filename=f"{module}.py")
        below = SimpleNamespace(f_globals={"__name__": module}, f_code=code, f_lineno=1, f_back=below)
    monkeypatch.setattr(activity.sys, "_current_frames", lambda: {7: below})
    assert place_of(7) == (place, waits)
