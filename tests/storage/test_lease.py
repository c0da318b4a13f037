"""The lease of a work directory in object storage, on clocks of the tests."""

import json

import pytest
from fake_store import FakeStore

from jaxdp.errors import UserError
from jaxdp.storage import lease as module
from jaxdp.storage.lease import DURATION_SECS, MARGIN_SECS, SKEW_SECS, Lease, LeaseLost
from jaxdp.storage.lease_content import KEY
from jaxdp.storage.object_store import StorageError


class Clock:
    """Time that passes only while somebody sleeps; `meanwhile` is called after each sleep."""

    def __init__(self, meanwhile=lambda: None):
        self.now, self.meanwhile = 1e9, meanwhile

    def __call__(self):
        return self.now

    def sleep(self, secs):
        self.now += secs
        self.meanwhile()


def acquire(store, holder, clock):
    return Lease(store, holder, clock=clock, sleep=clock.sleep)


def test_a_free_place_is_leased_at_once():
    store, clock = FakeStore(), Clock()
    lease = acquire(store, "a", clock)
    assert (lease.previous, clock.now) == ("", 1e9)
    found = json.loads(store.read(KEY)[0])
    assert found["holder"] == "a" and found["expires"] == 1e9 + DURATION_SECS and not found["released"]


def test_a_released_lease_is_free_and_names_its_last_holder():
    store, clock = FakeStore(), Clock()
    with acquire(store, "a", clock) as first:
        pass
    assert acquire(store, "b", clock).previous == first.session and clock.now == 1e9


def test_a_holder_that_renews_refuses_another_process():
    store, clock = FakeStore(), Clock()
    first = acquire(store, "a", clock)
    clock.meanwhile = lambda: first._replace()
    with pytest.raises(
        UserError, match=r"in use by process \d+ on .*, started 2001-09-09 .* holds its lease until 2001-"
    ):
        acquire(store, "b", clock)
    first.check()


def test_a_dead_holder_is_followed_after_the_duration_whatever_its_clock_says():
    store, clock, ahead = FakeStore(), Clock(), Clock()
    ahead.now += 86_400
    first = acquire(store, "a", ahead)
    second = acquire(store, "b", clock)
    assert clock.now == pytest.approx(1e9 + DURATION_SECS) and second.previous == first.session
    with pytest.raises(LeaseLost, match="now belongs to process"):
        first._replace()
    with pytest.raises(LeaseLost):
        first.check()


def test_a_lease_that_expired_long_ago_is_taken_over_at_once():
    store, clock = FakeStore(), Clock()
    acquire(store, "a", clock)
    clock.now += DURATION_SECS + SKEW_SECS + 1
    before = clock.now
    acquire(store, "b", clock)
    assert clock.now == before


def test_the_same_place_takes_over_at_once():
    store, clock = FakeStore(), Clock()
    first, second = acquire(store, "a", clock), acquire(store, "a", clock)
    assert (second.previous, clock.now) == (first.session, 1e9)


def test_of_two_processes_that_take_over_one_gets_it():
    store, clock = FakeStore(), Clock()
    acquire(store, "a", clock)
    clock.now += DURATION_SECS + SKEW_SECS + 1
    read, others = store.read, []

    def read_slowly(key):
        found = read(key)
        if not others:
            store.read = read
            others.append(acquire(store, "b", clock))
        return found

    store.read = read_slowly
    clock.meanwhile = lambda: others[0]._replace()
    with pytest.raises(UserError, match="in use by"):
        acquire(store, "c", clock)
    others[0].check()


def test_a_write_renews_a_lease_that_is_nearly_over():
    store, clock = FakeStore(), Clock()
    lease = acquire(store, "a", clock)
    clock.now += DURATION_SECS - MARGIN_SECS - 1
    lease.ensure()
    assert store.num_changes == 1
    clock.now += 2
    lease.ensure()
    assert store.num_changes == 2
    store.is_down = True
    lease.ensure()
    clock.now += DURATION_SECS
    with pytest.raises(StorageError):
        lease.ensure()
    store.is_down = False
    lease.ensure()


def test_a_renewal_whose_answer_was_lost_counts():
    store, clock = FakeStore(fail_at=1, after=True, error=lambda: StorageError("lost", is_transient=True)), Clock()
    lease = acquire(store, "a", clock)
    with pytest.raises(StorageError):
        lease._replace()
    lease._replace()
    lease.check()


def test_a_deleted_lease_is_lost():
    store, clock = FakeStore(), Clock()
    lease = acquire(store, "a", clock)
    store.delete([KEY])
    with pytest.raises(LeaseLost, match="nobody: its object was deleted"):
        lease._replace()


@pytest.mark.parametrize("operation", ["put_new", "replace"])
def test_a_server_that_ignores_conditions_is_refused(operation):
    store, clock = FakeStore(), Clock()
    setattr(store, operation, lambda key, content, tag=None: store._set(key, content))
    with pytest.raises(UserError, match="ignores the condition of a put"), acquire(store, "a", clock):
        pass
    assert not store.objects


def test_an_object_of_another_form_is_watched_for_the_duration():
    store, clock = FakeStore({KEY: (b"?", {"e_tag": "1"})}), Clock()
    acquire(store, "a", clock)
    assert clock.now == pytest.approx(1e9 + DURATION_SECS)


def test_the_background_renews_until_the_end(monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECS", 0.001)
    store = FakeStore()
    with Lease(store, "a"):
        while store.num_changes < 4:
            pass
    assert json.loads(store.read(KEY)[0])["released"]
