"""The run token: where it comes from, who can read it, and what is in its place."""

import os
import stat

import pytest

from jaxdp.errors import UserError
from jaxdp.parallel.run_token import VARIABLE, RunToken


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".run_token"


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_it_is_random_and_its_users_only(path, umask):
    path.write_bytes(b"x" * 32)
    path.chmod(0o644)
    token = RunToken(path, {})
    token.write()
    first = token.read()
    assert len(first) == 32 and first != b"x" * 32
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    token.write()
    assert token.read() != first
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_it_is_written_where_there_is_none_and_kept_where_there_is_one(path):
    token = RunToken(path, {})
    token.write_if_missing()
    first = token.read()
    token.write_if_missing()
    assert token.read() == first


def test_what_a_kill_left_is_no_obstacle(path):
    path.with_name(f"{path.name}.{os.getpid()}.partial").write_bytes(b"half")
    RunToken(path, {}).write()
    assert len(RunToken(path, {}).read()) == 32


def test_the_environment_beats_the_file(path):
    token = RunToken(path, {VARIABLE: "0123456789abcdef"})
    token.write()
    token.write_if_missing()
    assert not path.exists()
    assert token.read() == b"0123456789abcdef" and token.origin == VARIABLE


@pytest.mark.parametrize("given", ["", "short", "x" * 15])
def test_a_short_token_is_refused_and_not_shown(path, given):
    with pytest.raises(
        UserError, match=rf"{VARIABLE} must have at least 16 characters, found {len(given)}: set it"
    ) as refusal:
        RunToken(path, {VARIABLE: given})
    assert not given or given not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 10_000])
def test_a_file_that_is_no_token(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\.run_token must hold 32 bytes, found"):
        RunToken(path, {}).read()


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(path, kind):
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.with_name("elsewhere").write_bytes(b"x" * 32)
        path.symlink_to("elsewhere")
    token = RunToken(path, {})
    with pytest.raises((OSError, ValueError)):
        token.read()
    if kind == "directory":
        with pytest.raises(
            UserError, match=r"cannot write .*\.run_token \(Is a directory\), .*: remove what is in its place"
        ):
            token.write()
    else:
        token.write()
        assert len(token.read()) == 32


def test_a_full_or_read_only_disk_is_one_sentence(path, monkeypatch):
    def fails(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "write", fails)
    for write in (RunToken(path, {}).write, RunToken(path, {}).write_if_missing):
        with pytest.raises(
            UserError, match=r"process 0 cannot write .* \(Read-only file system\), .* or set the environment variable"
        ) as refusal:
            write()
        assert refusal.value.exit_code == 2
