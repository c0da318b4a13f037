"""Joining a run: the lock of the work directory, the token under it, and what the others hear when it is held."""

import concurrent.futures
import contextlib
import os
import stat

import pytest
from fake_store import FakeStore
from tiny_processes import free_address

from jaxdp.errors import UserError
from jaxdp.parallel import addresses
from jaxdp.parallel import control_plane as control_plane_module
from jaxdp.parallel.processes import ALONE, Processes
from jaxdp.parallel.run_token import VARIABLE
from jaxdp.parallel.stored_token import KEY
from jaxdp.storage.object_store import StorageError
from jaxdp.training import process_start as joining
from jaxdp.training.process_start import join_processes
from jaxdp.workdir import WorkDir


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(control_plane_module, "LINGER_SECS", 0.2)
    monkeypatch.setattr(addresses, "BIND_SECS", 0.2)
    monkeypatch.delenv(VARIABLE, raising=False)
    # A process that leaves with an error ends itself at exit with that code, which here would be pytest's.
    monkeypatch.setattr(control_plane_module.ControlPlane, "_end_at_once", lambda *_: None)


@pytest.fixture
def directory(tmp_path):
    return WorkDir(tmp_path)


def join_all(directories, address=None, timeout_secs=20.0, stores=None):
    """What each process gathers or raises, one process a directory."""
    address = address or free_address()

    def run(index):
        try:
            with contextlib.ExitStack() as stack:
                processes = Processes(len(directories), index, address)
                control_plane, check_held = join_processes(
                    stack, processes, directories[index], timeout_secs, stores and stores[index]
                )
                check_held()
                return control_plane.allgather(index)
        except UserError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(directories)) as pool:
        return list(pool.map(run, range(len(directories))))


def test_process_0_writes_a_token_that_the_others_read(directory):
    directory.run_token.write_bytes(b"x" * 32)  # of an earlier start
    assert join_all([directory] * 3) == [[0, 1, 2]] * 3
    assert directory.run_token.read_bytes() != b"x" * 32
    assert stat.S_IMODE(directory.run_token.stat().st_mode) == 0o600


def test_a_process_alone_needs_no_token(directory):
    with contextlib.ExitStack() as stack:
        control_plane, check_held = join_processes(stack, ALONE, directory, 1.0)
        check_held()
        assert control_plane.allgather(1) == [1]
        assert not directory.run_token.exists()


@pytest.mark.parametrize("token", [None, b"t" * 32])
def test_a_directory_in_use_is_told_to_all_at_once(directory, token):
    """The token of the run that holds it stays."""
    if token:
        directory.run_token.write_bytes(token)
    with directory.locked():
        for error in join_all([directory] * 2):
            assert isinstance(error, UserError) and error.exit_code == 2
            assert f"--workdir={directory.root} is in use by process {os.getpid()}" in str(error)
    assert token is None or directory.run_token.read_bytes() == token


def test_a_directory_in_use_counts_before_a_port_in_use(directory):
    address = free_address()
    in_use = pytest.raises(UserError, match="is in use by process")
    with directory.locked(), addresses.listen(address), contextlib.ExitStack() as stack, in_use:
        join_processes(stack, Processes(2, 0, address), directory, 1.0)


def test_directories_that_are_not_shared_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(control_plane_module, "TOKEN_SECS", 0.3)
    directories = [WorkDir(tmp_path / name) for name in ("a", "b")]
    for directory in directories:
        directory.create()
    first, second = join_all(directories, timeout_secs=3.0)
    assert "process 1 of 2 did not come" in str(first)
    assert second.exit_code == 2 and "--workdir must be one directory that all machines share" in str(second)


def test_a_token_that_cannot_be_written_is_told_by_process_0(directory):
    directory.run_token.mkdir()
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(
            UserError, match=rf"cannot write .*\.run_token \(Is a directory\).* set the environment variable {VARIABLE}"
        ),
    ):
        join_processes(stack, Processes(2, 0, free_address()), directory, 1.0)


def test_a_token_of_the_environment_needs_no_file(directory, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0123456789abcdef")
    assert join_all([directory] * 2) == [[0, 1]] * 2
    assert not directory.run_token.exists()


@pytest.fixture
def mirrors(tmp_path):
    """Directories of two machines that share none, and their stores of one place."""
    objects, directories = {}, [WorkDir(tmp_path / str(index), url=FakeStore.url) for index in range(2)]
    for directory in directories:
        directory.create()
    return directories, [FakeStore(objects) for _ in directories]


def test_processes_of_object_storage_meet_by_a_token_in_the_store(mirrors):
    directories, stores = mirrors
    stores[0].put(KEY, b"x" * 32)  # of a start that was killed
    before = stores[0].read(KEY)
    assert join_all(directories, stores=stores) == [[0, 1]] * 2
    assert stores[0].log == [("put", KEY), ("put", KEY), ("delete", KEY)] and before[0] == b"x" * 32
    assert not stores[0].objects and not any(directory.run_token.exists() for directory in directories)


@pytest.mark.parametrize("process", [0, 1])
def test_a_mirror_in_use_is_told_to_all_at_once(mirrors, process):
    directories, stores = mirrors
    with directories[process].locked():
        errors = join_all(directories, stores=stores)
    for error in errors:
        assert f"--workdir={FakeStore.url} is in use by process {os.getpid()}" in str(error) and error.exit_code == 2


def test_a_store_that_is_down_for_a_moment_does_not_refuse_a_process(mirrors):
    directories, stores = mirrors
    read, failures = stores[1].read, [StorageError("the network is down.", is_transient=True)] * 2

    def failing(key):
        if failures:
            raise failures.pop()
        return read(key)

    stores[1].read = failing
    assert join_all(directories, stores=stores) == [[0, 1]] * 2 and not failures


def test_a_store_that_refuses_to_be_read_is_told(mirrors):
    directories, stores = mirrors

    def refuse(key):
        raise StorageError("access is denied.")

    stores[1].read = refuse
    _, error = join_all(directories, stores=stores, timeout_secs=1.0)
    assert str(error) == "access is denied."


def test_what_ends_a_process_from_a_thread_is_said(capsys):
    joining._log("process 1 on a is gone")
    assert capsys.readouterr().err == "jaxdp: process 1 on a is gone\n"
