"""Provenance: what a start records of itself, and a file of starts that stays whole."""

import json
import os
import stat
import subprocess
import sys
import time

import jax
import pytest

import jaxdp
from jaxdp import provenance
from jaxdp.provenance import add_entry, begin_entry, describe_entry, describe_starts, read_entries


def git(directory, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, "-C", str(directory), *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    directory = tmp_path / "repository"
    (directory / "below").mkdir(parents=True)
    (directory / "below" / "code.py").write_text("one")
    git(tmp_path, "init", "-q", str(directory))
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "first")
    return directory


def state_of(directory, tracked="."):
    return provenance._git_state(directory, time.monotonic() + 60, tracked)


def test_an_entry_says_which_code_ran_where(monkeypatch, repository):
    monkeypatch.chdir(repository / "below")
    monkeypatch.setattr(sys, "argv", ["jaxdp", "train", "--config.data.path=https://me:secret@host/data?token=abc"])
    before = time.time()
    entry = begin_entry()()
    assert before <= entry["start_time"] <= time.time()
    assert entry["jaxdp"]["version"] == jaxdp.__version__ and entry["versions"]["jax"] == jax.__version__
    assert entry["versions"].keys() == {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert entry["directory"]["path"] == str(repository / "below") and entry["directory"]["clean"] is True
    assert entry["process_id"] == os.getpid()
    assert "secret" not in json.dumps(entry) and "abc" not in json.dumps(entry["command"])
    assert entry["command"][:2] == ["jaxdp", "train"]


def test_changes_of_tracked_files_alone_make_a_directory_unclean(repository):
    state = state_of(repository)
    assert len(state["commit"]) == 40 and state["clean"] is True
    (repository / "new").write_text("an untracked file")
    assert state_of(repository / "below") == state
    (repository / "below" / "code.py").write_text("two")
    assert state_of(repository) == state | {"clean": False}
    git(repository, "add", "-A")
    assert state_of(repository)["clean"] is False  # staged is not committed


UNKNOWN = {"commit": None, "clean": None}


def test_what_git_does_not_know_is_unknown(repository, tmp_path, monkeypatch):
    (repository / "venv").mkdir()
    (repository / "venv" / "__init__.py").write_text(
        ""
    )  # an installed package in a project's folder is not the project
    assert state_of(repository / "venv", "__init__.py") == UNKNOWN
    assert state_of(tmp_path) == state_of(tmp_path / "nowhere") == state_of(None) == UNKNOWN
    git(tmp_path, "init", "-q", str(tmp_path / "empty"))
    assert state_of(tmp_path / "empty") == UNKNOWN
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert state_of(tmp_path) == UNKNOWN
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state_of(repository) == UNKNOWN


def test_git_that_hangs_is_not_waited_for(repository, tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_SECS", 0.05)
    monkeypatch.chdir(repository)
    entry = begin_entry()()
    assert entry["directory"] == {"path": str(repository), **UNKNOWN} and entry["versions"]["jax"] == jax.__version__


def test_a_directory_that_was_deleted_is_unknown(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert begin_entry()()["directory"] == {"path": None, **UNKNOWN}


def test_entries_are_added_to_a_json_array(tmp_path):
    path, said = tmp_path / "provenance.json", []
    assert read_entries(path) == []
    for number in range(3):
        add_entry(path, {"first_step": number}, said.append)
    assert json.loads(path.read_text()) == read_entries(path) == [{"first_step": number} for number in range(3)]
    assert said == [] and list(tmp_path.iterdir()) == [path]


OTHERS = (b"", b"{}", b"[1]", b'[{"a": 1}', b"[" * 10**5, b"\xff\xfe", b"null")


@pytest.mark.parametrize("content", OTHERS, ids=range(len(OTHERS)))
def test_a_file_that_is_no_list_of_starts_is_set_aside(tmp_path, content):
    path, said = tmp_path / "provenance.json", []
    path.write_bytes(content)
    add_entry(path, {"first_step": 7}, said.append)
    assert read_entries(path) == [{"first_step": 7}]
    [aside] = tmp_path.glob("provenance.json.damaged.*")
    assert aside.read_bytes() == content
    assert said == [f"{path} is not a JSON array of starts and is set aside as {aside}; a new one begins"]


def test_a_directory_or_a_fifo_at_its_place_is_set_aside(tmp_path):
    path, said = tmp_path / "provenance.json", []
    path.mkdir()
    add_entry(path, {}, said.append)
    path.unlink()
    os.mkfifo(path)
    add_entry(path, {}, said.append)
    assert read_entries(path) == [{}] and len(said) == 2


def test_an_entry_reads_as_two_lines():
    entry = {
        "start_time": 0.0, "first_step": 5, "host": "a", "devices": {"platform": "cpu", "kind": "cpu", "count": 8}, "num_processes": 2,
        "jaxdp": {"version": "0.1.0", "commit": "0123456789abcdef", "clean": False}, "versions": {"jax": "0.10.2", "python": "3.12"},
        "directory": {"path": "/x", "commit": "fedcba9876543210", "clean": True}, "command": ["jaxdp", "train"],
    }  # fmt: skip
    first, second = describe_entry(entry)
    assert first.endswith(
        ", from step 5, host a, 8 x cpu, 2 processes, jaxdp 0.1.0 at 0123456789ab with changes, directory at fedcba987654, "
        "jax 0.10.2, Python 3.12"
    )
    assert second == "  jaxdp train"
    assert describe_starts([]) == []
    assert describe_starts([entry])[0] == "starts" and describe_starts([entry] * 5)[0] == "starts   (the last 3 of 5)"


@pytest.mark.parametrize("value", [None, 7, "text\x1b[2J\n", [], {}, ["x\x1b]0;t\x07"], 1e300, float("nan")])
def test_an_entry_of_a_stranger_reads_too(value):
    names = (
        "start_time",
        "first_step",
        "host",
        "devices",
        "num_processes",
        "jaxdp",
        "versions",
        "directory",
        "command",
    )
    lines = describe_entry(dict.fromkeys(names, value))
    assert len(lines) == 2 and all(line.isprintable() for line in lines)
