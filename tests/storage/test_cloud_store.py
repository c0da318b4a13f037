"""The client of S3 and Google Cloud Storage against servers on loopback, and its errors."""

import socket
import sys
import uuid

import pytest

from jaxdp.errors import UserError
from jaxdp.storage import cloud_store
from jaxdp.storage.cloud_store import open_store
from jaxdp.storage.lease import Lease
from jaxdp.storage.location import remote_location
from jaxdp.storage.object_store import ObjectChanged, ObjectExists, StorageError


@pytest.fixture(params=[("s3", "s3"), ("gs", "gcs")], ids=["s3", "gs"])
def store(request):
    scheme, server = request.param
    request.getfixturevalue(server)
    return open_store(remote_location(f"{scheme}://bucket/{uuid.uuid4().hex}/run", "--workdir"), "--workdir")


def test_objects_are_put_read_listed_copied_and_deleted(store):
    store.put("a/b", b"hello")
    store.put("a.c", b"")
    assert store.read("a/b")[0] == b"hello"
    assert store.read_range("a/b", 1, 3) == b"el" and store.read_range("a/b", 2, 2) == b""
    store.copy("a/b", "d")
    assert [(info.key, info.size) for info in store.list()] == [("a.c", 0), ("a/b", 5), ("d", 5)]
    assert [info.key for info in store.list("a")] == ["a/b"]
    before = store.list("a")[0].version
    store.put("a/b", b"other")
    assert store.list("a")[0].version != before
    store.delete(["a/b", "a.c", "missing"])
    store.delete([])
    assert [info.key for info in store.list()] == ["d"]


def test_missing_objects(store):
    for read in (store.read, lambda key: store.read_range(key, 0, 1), lambda key: list(store.pieces(key))):
        with pytest.raises(FileNotFoundError):
            read("missing")


def test_a_large_file_is_put_in_parts_and_read_in_pieces(store, tmp_path, monkeypatch):
    monkeypatch.setattr(cloud_store, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(cloud_store, "PIECE_BYTES", 2**20)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 2**16)
    store.put("large", path)
    pieces = list(store.pieces("large"))
    assert b"".join(pieces) == path.read_bytes() and len(pieces) > 4


def test_conditional_puts(store):
    tag = store.put_new("lock", b"1")
    with pytest.raises(ObjectExists):
        store.put_new("lock", b"2")
    newer = store.replace("lock", b"3", tag)
    with pytest.raises(ObjectChanged):
        store.replace("lock", b"4", tag)
    assert store.read("lock") == (b"3", newer)
    store.delete(["lock"])
    with pytest.raises(ObjectChanged):
        store.replace("lock", b"5", newer)


def test_a_lease_on_a_server(store):
    with Lease(store, "a") as first:
        first.ensure()
        first._replace()
    with Lease(store, "b") as second:
        assert second.previous == first.session


@pytest.mark.parametrize(
    "url, environment, reason",
    [
        ("s3://nowhere/run", {}, "s3://nowhere/run/logs cannot be listed: the bucket does not exist; check the URL and AWS_"),
        ("s3://bucket/run", {"AWS_ENDPOINT_URL": "http://127.0.0.1:{free}"}, "cannot be listed .*check the network and the server"),
    ],
)  # fmt: skip
def test_what_cannot_be_reached_is_one_sentence(s3, monkeypatch, url, environment, reason):
    monkeypatch.setattr(cloud_store, "RETRY_SECS", 0.1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(free=free.getsockname()[1]))
        store = open_store(remote_location(url, "--workdir"), "--workdir")
        with pytest.raises(StorageError, match=reason) as failure:
            store.list("logs")
    assert failure.value.exit_code == 2 and "\n" not in str(failure.value)
    assert failure.value.is_transient == bool(environment)


@pytest.mark.parametrize(
    "text, reason, is_transient",
    [
        ("Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>", "access is denied", False),
        ("<Code>InvalidAccessKeyId</Code>", "no valid credentials were found", False),
        ("Error performing PUT http://169.254.169.254/latest/api/token", "no valid credentials were found", False),
        ("Server returned non-2xx status code: 503 Slow Down", "503 Slow Down", True),
    ],
)
def test_reasons(store, text, reason, is_transient):
    failure = store._failure("written", "a", RuntimeError(f"{text}\n\nDebug source"))
    assert reason in str(failure) and failure.is_transient == is_transient and "\n" not in str(failure)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(
        UserError, match=r"--workdir=gs://bucket/run needs the package obstore.*pip install 'jaxdp\[storage\]'"
    ):
        open_store(remote_location("gs://bucket/run", "--workdir"), "--workdir")
