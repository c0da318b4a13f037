import gc
import threading
import time
import traceback
import weakref

import pytest

from jaxdp.data.prefetch import Prefetch, QueueState
from jaxdp.errors import UserError

LIMIT_SECS = 5.0  # generous: what is waited for takes milliseconds


def until(condition):
    deadline = time.monotonic() + LIMIT_SECS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_stopped(prefetch):
    prefetch._thread.join(LIMIT_SECS)
    assert not prefetch._thread.is_alive()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_items_in_order_and_transformed_in_the_background(depth):
    threads = set()

    def transform(item):
        threads.add(threading.current_thread())
        return item * 10

    with Prefetch(iter(range(20)), transform, depth) as prefetch:
        assert list(prefetch) == list(range(0, 200, 10))
        with pytest.raises(StopIteration):
            next(prefetch)
    assert threads == {prefetch._thread} and prefetch._thread.daemon
    assert_stopped(prefetch)


def test_at_most_depth_items_are_made_ahead():
    made = []
    with Prefetch(iter(range(100)), made.append, depth=3) as prefetch:
        until(lambda: len(made) == 3)
        time.sleep(0.05)
        assert made == [0, 1, 2]
        next(prefetch)
        until(lambda: len(made) == 4)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_never_more_than_depth_items_are_made_and_not_taken(depth):
    asked = 0

    def transform(item):
        assert item < asked + depth  # `asked` counts before the item is taken, so it is no race
        return item

    with Prefetch(iter(range(2000)), transform, depth) as prefetch:
        for expected in range(2000):
            asked += 1
            assert next(prefetch) == expected


class Batch:
    """Something that a weak reference can point at."""


def test_what_was_taken_is_let_go_while_the_next_is_made():
    release, second = threading.Event(), threading.Event()

    def transform(item):
        if item:
            second.set()
            assert release.wait(LIMIT_SECS)
        return Batch()

    with Prefetch(iter(range(2)), transform, depth=1) as prefetch:
        taken = weakref.ref(next(prefetch))
        assert second.wait(LIMIT_SECS)
        assert taken() is None
        release.set()


def test_depth_of_nothing():
    with pytest.raises(UserError, match=r"data\.prefetch_batches=0 is too small"):
        Prefetch(iter(()), lambda item: item, depth=0)


def closing_reader(closed):
    try:
        yield from range(100)
    finally:
        closed.append(threading.current_thread())


def test_the_reader_is_closed_in_its_own_thread():
    closed = []
    prefetch = Prefetch(closing_reader(closed), lambda item: item)
    next(prefetch)
    gc.disable()  # closed because we close it, not because it was found to be garbage
    try:
        prefetch.close()
        assert closed == [prefetch._thread]
    finally:
        gc.enable()


def failing_reader():
    yield 1
    yield 2
    raise ValueError("bad row")


def failing_transform(item):
    if item == 3:
        raise ValueError("bad row")
    return item


def stopping_transform(item):
    return next(iter(())) if item == 3 else item


@pytest.mark.parametrize(
    "iterator, transform, where",
    [
        (failing_reader, lambda item: item, "failing_reader"),
        (lambda: iter([1, 2, 3]), failing_transform, "failing_transform"),
    ],
)
def test_exceptions_reach_the_consumer_with_their_traceback(iterator, transform, where):
    with Prefetch(iterator(), transform) as prefetch:
        assert [next(prefetch), next(prefetch)] == [1, 2]
        for _ in range(2):  # and again, so that the data never seems to have ended
            with pytest.raises(ValueError, match="bad row") as error:
                next(prefetch)
            assert where in "".join(traceback.format_tb(error.value.__traceback__))
    assert_stopped(prefetch)


def test_a_stray_stop_iteration_is_not_the_end():
    with Prefetch(iter([1, 2, 3]), stopping_transform) as prefetch:
        assert [next(prefetch), next(prefetch)] == [1, 2]
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(prefetch)


def test_close_while_the_queue_is_full():
    made = []
    prefetch = Prefetch(iter(range(100)), made.append, depth=2)
    until(lambda: len(made) == 2)
    start = time.monotonic()
    prefetch.close()
    assert time.monotonic() - start < 1.0
    assert not prefetch._thread.is_alive()
    assert made == [0, 1]
    with pytest.raises(StopIteration):
        next(prefetch)
    prefetch.close()


def test_close_while_an_item_is_in_the_making():
    entered, release = threading.Event(), threading.Event()

    def transform(item):
        entered.set()
        assert release.wait(LIMIT_SECS)
        return item

    prefetch = Prefetch(iter(range(100)), transform)
    assert entered.wait(LIMIT_SECS)
    threading.Timer(0.05, release.set).start()
    prefetch.close()
    assert not prefetch._thread.is_alive()
    with pytest.raises(StopIteration):  # the late item is let go
        next(prefetch)


def test_close_wakes_a_waiting_consumer():
    release = threading.Event()
    prefetch = Prefetch(iter(range(3)), lambda item: release.wait(LIMIT_SECS))
    seen = []
    consumer = threading.Thread(target=lambda: seen.extend(prefetch))
    consumer.start()
    threading.Timer(0.05, release.set).start()
    prefetch.close()
    consumer.join(LIMIT_SECS)
    assert not consumer.is_alive() and seen == []


def test_leaving_by_an_exception_closes():
    with (
        pytest.raises(KeyError),
        Prefetch(iter(range(100)), lambda item: item) as prefetch,
    ):
        raise KeyError
    assert_stopped(prefetch)


def test_wait_secs_is_the_time_the_consumer_waited():
    def slow(item):
        time.sleep(0.05)
        return item

    with Prefetch(iter(range(4)), slow) as prefetch:
        list(prefetch)
        assert 0.15 < prefetch.wait_secs < LIMIT_SECS
    with Prefetch(iter(range(4)), lambda item: item, depth=4) as prefetch:
        until(lambda: len(prefetch._ready) == 4)
        for _ in range(4):
            next(prefetch)
        assert prefetch.wait_secs < 0.05


def test_queue_state_is_that_of_the_latest_item():
    permits = threading.Semaphore(0)

    def transform(item):
        assert permits.acquire(timeout=LIMIT_SECS)
        return item

    with Prefetch(iter(range(6)), transform, depth=3) as prefetch:
        assert prefetch.queue == QueueState(3, 0, 0.0)
        permits.release(3)
        until(lambda: len(prefetch._ready) == 3)
        states = []
        for _ in range(3):
            next(prefetch)
            states.append(prefetch.queue)
        assert [state.num_ready for state in states] == [3, 2, 1]
        threading.Timer(0.05, permits.release).start()
        next(prefetch)
        states.append(prefetch.queue)
        assert (states[3].depth, states[3].num_ready) == (3, 0)
        assert states[3].wait_secs > 0.01
        assert prefetch.wait_secs == sum(state.wait_secs for state in states)
        permits.release(2)


def test_no_time_is_burnt_waiting():
    release = threading.Event()
    with Prefetch(iter(range(1)), lambda item: release.wait(LIMIT_SECS)) as prefetch:
        start = time.process_time()
        threading.Timer(0.3, release.set).start()
        next(prefetch)
        assert time.process_time() - start < 0.15
