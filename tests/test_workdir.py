"""The work directory: its names, and the lock that keeps it to one run."""

import json
import os
import signal
import subprocess
import sys

import pytest

from jaxdp.errors import UserError
from jaxdp.workdir import WorkDir

HOLDER = """
import sys
from jaxdp.workdir import WorkDir
with WorkDir(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(root):
    """A process that has the lock and keeps it until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_names_of_a_run(tmp_path):
    run = WorkDir(tmp_path / "run")
    names = {name: path.relative_to(tmp_path / "run").as_posix() for name, path in vars(run).items()}
    assert names == {
        "root": ".", "config": "config.json", "tokenizer": "tokenizer.json",
        "target_tokenizer": "target_tokenizer.json", "labels": "labels.json",
        "evaluation": "evaluation.json", "metrics": "metrics.jsonl",
        "checkpoints": "checkpoints", "tensorboard": "tensorboard", "plots": "plots", "logs": "logs",
        "profile": "profile",
    }  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_home_and_relative_paths_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert WorkDir("~/run").root == WorkDir("run").root == tmp_path.resolve() / "run"


def test_create_makes_all_folders_and_leaves_nothing_else(tmp_path):
    run = WorkDir(tmp_path / "a" / "b")
    run.create()
    run.create()
    assert list(run.root.iterdir()) == []


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_what_is_no_directory_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"--workdir=.*/file.* cannot be written to \((File exists|Not a directory)\)"):
        WorkDir(tmp_path / "file" / below).create()
    assert (tmp_path / "file").read_text() == "text"


def test_require_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no run \(config.json is missing\)"):
        WorkDir(tmp_path).require_run()
    (tmp_path / "config.json").write_text("{}")
    WorkDir(tmp_path).require_run()


def test_a_second_holder_is_refused_and_the_first_is_named(tmp_path):
    run = WorkDir(tmp_path)
    with run.locked():
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on \S+, started \d{{4}}-"), run.locked():
            pass
        holder = json.loads((tmp_path / "run.lock").read_text())
        assert holder.keys() == {"host", "process_id", "start_time"}
    with run.locked():
        pass
    assert (tmp_path / "run.lock").read_text() == ""


def test_the_lock_of_another_process_holds_until_it_is_killed(tmp_path):
    process, run = hold(tmp_path), WorkDir(tmp_path)
    try:
        with pytest.raises(UserError, match=f"in use by process {process.pid} on"), run.locked():
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert str(process.pid) in (tmp_path / "run.lock").read_text()  # stale, and no obstacle
    with run.locked():
        assert str(os.getpid()) in (tmp_path / "run.lock").read_text()


@pytest.mark.parametrize("torn", ["", '{"host": "a", "proc', "[]", "{}"])
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path, torn):
    run = WorkDir(tmp_path)
    with run.locked():
        (tmp_path / "run.lock").write_text(torn)
        with pytest.raises(UserError, match="in use by another process"), run.locked():
            pass
