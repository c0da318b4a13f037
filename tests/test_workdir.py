"""The work directory: its names, and the lock that keeps it to one run."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdp.errors import UserError
from jaxdp.workdir import WorkDir

HOLDER = """
import sys
from pathlib import Path
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
        "root": ".", "config": "config.json", "provenance": "provenance.json", "tokenizer": "tokenizer.json",
        "target_tokenizer": "target_tokenizer.json", "labels": "labels.json", "initial": "init.json",
        "named_files": "named_files.json", "run_token": ".run_token", "evaluation": "evaluation.json", "metrics": "metrics.jsonl",
        "checkpoints": "checkpoints", "proofs": ".intact_checkpoints.json", "tensorboard": "tensorboard", "plots": "plots", "logs": "logs",
        "timeline": "logs/timeline.jsonl", "heartbeat": "logs/heartbeat.json", "norms": "norms.jsonl",
        "profile": "profile", "hugging_face": "hugging_face",
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
    with pytest.raises(
        UserError,
        match=r"--workdir=.*/file.* cannot be a directory, since a file has its place or that of one above it: choose",
    ):
        WorkDir(tmp_path / "file" / below).create()
    assert (tmp_path / "file").read_text() == "text"


def _make(path, kind):
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nothing")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("nothing", r"holds no run \(config.json is missing\): train into it first"),
        ("directory", r"holds no run \(config.json is a directory\): restore it from a copy, or from a checkpoint"),
        ("pipe", r"holds no run \(config.json is a named pipe\): restore it"),
        ("link", r"holds no run \(config.json is a link to nothing\): restore it"),
    ],
)
def test_what_is_no_configuration_is_named(tmp_path, kind, told):
    _make(tmp_path / "config.json", kind)
    with pytest.raises(UserError, match=told):
        WorkDir(tmp_path).require_run()


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"holds no run \(it is no directory\): train into"):
        WorkDir(tmp_path / "file").require_run()


def test_require_run(tmp_path):
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


TORN = [
    b"", b'{"host": "a", "proc', b"[]", b"{}", b"\xff\xfe\x00binary", b"[" * 9000,
    b'{"host": "a", "process_id": 1, "start_time": 1e300}', b'{"host": "a\\u001b[2J", "process_id": 1, "start_time": 1}',
]  # fmt: skip


@pytest.mark.parametrize("torn", TORN, ids=range(len(TORN)))
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path, torn):
    run = WorkDir(tmp_path)
    with run.locked():
        (tmp_path / "run.lock").write_bytes(torn)
        with pytest.raises(UserError, match="in use by another process"), run.locked():
            pass


def delete_and_begin_again(root):
    shutil.rmtree(root)
    root.mkdir()
    (root / "run.lock").write_text("")


DISPLACEMENTS = {
    "deleted": shutil.rmtree,
    "moved": lambda root: root.rename(root.with_name("moved")),
    "deleted and begun again": delete_and_begin_again,
    "a file now": lambda root: (shutil.rmtree(root), root.write_text("")),
    "without its lock": lambda root: (root / "run.lock").unlink(),
    "another lock in it": lambda root: (root / "other").rename(root / "run.lock"),
}


@pytest.mark.parametrize("displace", DISPLACEMENTS.values(), ids=DISPLACEMENTS)
def test_a_holder_hears_that_the_directory_is_not_its_own_any_more(tmp_path, displace):
    run = WorkDir(tmp_path / "run")
    run.create()
    with run.locked() as check_held:
        (run.root / "other").write_text("")
        check_held()
        displace(run.root)
        for _ in range(2):
            with pytest.raises(
                UserError, match=r"--workdir=\S+/run was deleted, moved or replaced while this run"
            ) as told:
                check_held()
    assert told.value.exit_code == 2


def test_the_next_run_at_the_path_holds_its_own_lock(tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    with WorkDir(root).locked() as first:
        delete_and_begin_again(root)
        with WorkDir(root).locked() as second:
            second()
            with pytest.raises(UserError, match="deleted, moved or replaced"):
                first()
        holder = (root / "run.lock").read_text()
    assert (root / "run.lock").read_text() == holder == ""


def test_a_lock_file_that_is_replaced_while_it_is_waited_for_does_not_count(tmp_path, monkeypatch):
    """Else two processes would each hold a file, one of them at no path."""
    flock, waits = fcntl.flock, []

    def replace_and_lock(descriptor, how):
        if not waits:
            waits.append(how)
            delete_and_begin_again(tmp_path)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with WorkDir(tmp_path).locked() as check_held:
        check_held()


def test_a_lock_that_the_kernel_refuses_is_one_sentence(tmp_path, monkeypatch):
    def refuse(number):
        def flock(descriptor, how):
            raise OSError(number, os.strerror(number))

        return flock

    for number, fix in ((errno.ENOLCK, "flock"), (errno.EPERM, "permissions"), (errno.EOPNOTSUPP, "another --workdir")):
        monkeypatch.setattr(fcntl, "flock", refuse(number))
        with pytest.raises(UserError, match=rf"run\.lock cannot be locked \({os.strerror(number)}\); .*{fix}"):
            WorkDir(tmp_path).locked().__enter__()


@pytest.mark.parametrize("obstacle", ["directory", "FIFO", "socket", "loop"])
def test_what_cannot_be_a_lock_is_one_sentence(tmp_path, obstacle):
    path = tmp_path / "run.lock"
    make = {
        "directory": path.mkdir,
        "FIFO": lambda: os.mkfifo(path),
        "socket": lambda: os.mknod(path, 0o140600),
        "loop": lambda: path.symlink_to(path),
    }
    make[obstacle]()
    with pytest.raises(UserError, match=r"run\.lock cannot be locked \(.*\); it must be a regular file: move away"):
        WorkDir(tmp_path).locked().__enter__()


def test_a_failure_inside_is_no_failure_of_the_lock(tmp_path):
    with pytest.raises(PermissionError), WorkDir(tmp_path).locked():
        raise PermissionError(errno.EACCES, "inside")


def test_a_copy_of_the_descriptor_does_not_keep_the_lock(tmp_path):
    """A process has one between its fork and its exec."""
    run = WorkDir(tmp_path)
    with run.locked():
        [number] = [
            int(path.name) for path in Path("/proc/self/fd").iterdir() if path.resolve() == tmp_path / "run.lock"
        ]
        copy = os.dup(number)
    try:
        with run.locked() as check_held:
            check_held()
    finally:
        os.close(copy)


@pytest.mark.parametrize("name", sorted(name for name in vars(WorkDir("x")) if name != "root"))
@pytest.mark.parametrize("damage", ["other kind", "pipe", "loop", "link to nothing"])
def test_something_else_in_the_place_of_a_name_of_a_run_is_refused(tmp_path, name, damage):
    run = WorkDir(tmp_path / "run")
    run.create()
    path = getattr(run, name)
    path.parent.mkdir(exist_ok=True)
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "loop":
        path.symlink_to(path.name)
    elif damage == "link to nothing":
        path.symlink_to("nowhere")
    elif name in ("checkpoints", "tensorboard", "plots", "logs", "profile", "hugging_face"):
        path.touch()
    else:
        path.mkdir()
    with pytest.raises(UserError, match=rf"{path} (must be|cannot be used)"):
        run.create()


def test_a_named_pipe_for_a_log_is_refused(tmp_path):
    run = WorkDir(tmp_path)
    run.logs.mkdir()
    os.mkfifo(run.log(0))
    with pytest.raises(UserError, match="must be a regular file"):
        run.create()


def test_links_to_files_and_directories_are_used(tmp_path):
    run = WorkDir(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "metrics").touch()
    run.create()
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    run.metrics.symlink_to(tmp_path / "metrics")
    run.create()
