"""Failures of the machine are one sentence and exit 2; what is jaxdp's own is an internal error."""

import errno
import os
import subprocess
import sys

import pytest
from tiny_runs import assert_refused, raising

from jaxdp.cli import eval as eval_command
from jaxdp.cli.environment import environment_sentence
from jaxdp.cli.main import main


def system_error(name, *files):
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), *files)


@pytest.mark.parametrize(
    ("error", "fragments"),
    [
        (system_error("ENOSPC", "/d/a"), ["/d/a cannot be used (No space left on device)", "make room"]),
        (system_error("EACCES", "/d/a"), ["/d/a", "Permission denied", "permissions"]),
        (system_error("EPERM", "/d/a"), ["Operation not permitted", "permissions"]),
        (system_error("EROFS", b"/d/a"), ["/d/a cannot", "Read-only file system"]),
        (system_error("ENOLCK", "/d/lock"), ["No locks available", "choose a directory on another one"]),
        (system_error("ENOTDIR", "/d/a/b"), ["/d/a/b", "Not a directory", "check the path"]),
        (system_error("EISDIR", "/d"), ["Is a directory", "check the path"]),
        (OSError(errno.EXDEV, "Invalid cross-device link", "/d/a", None, "/e/b"), ["/d/a or /e/b cannot be used"]),
        (system_error("EMFILE"), ["a file or connection", "ulimit -n"]),
        (system_error("EAGAIN"), ["Resource temporarily unavailable", "ulimit -u"]),
        (system_error("ETIMEDOUT"), ["timed out", "network"]),
        (system_error("EINVAL", "/d/a"), ["/d/a", "Invalid argument"]),
        (MemoryError(), ["memory is exhausted; make"]),
        (MemoryError("Unable to allocate 9.31 GiB"), ["memory is exhausted (Unable to allocate 9.31 GiB); make"]),
    ],
    ids=str,
)
def test_what_the_machine_refuses_is_a_sentence(capsys, monkeypatch, error, fragments):
    monkeypatch.setattr(eval_command, "run", raising(error))
    assert main(["eval", "--workdir=x"]) == 2
    sentence = assert_refused(capsys)
    assert all(fragment in sentence for fragment in fragments), sentence


@pytest.mark.parametrize(
    "error",
    [system_error("EBADF"), system_error("EINVAL"), OSError("of a library"), ValueError(), ImportError("no file")],
    ids=repr,
)
def test_a_wrong_call_is_not_the_machine(error):
    assert environment_sentence(error) is None


def test_memory_that_xla_lacks_is_the_machine():
    class XlaRuntimeError(RuntimeError):
        pass

    assert "Out of memory allocating 9 bytes" in environment_sentence(
        XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    )
    assert environment_sentence(XlaRuntimeError("INTERNAL: a bug")) is None


def test_messages_hold_no_secrets_and_no_control_characters(capsys, monkeypatch):
    gone = FileNotFoundError(errno.ENOENT, "gone", "https://ann:pw@host/\x1b[2J")
    monkeypatch.setattr(eval_command, "run", raising(gone))
    assert main(["eval", "--workdir=x"]) == 2
    assert "https://ann:***@host/\\x1b[2J" in assert_refused(capsys)


@pytest.mark.parametrize("setting", ["JAX_DISABLE_JIT", "JAX_NUM_CPU_DEVICES"])
def test_a_setting_that_jax_cannot_read_is_named(setting):
    finished = subprocess.run(
        [sys.executable, "-m", "jaxdp", "devices"], env=os.environ | {setting: "x"}, capture_output=True, text=True
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("jaxdp: JAX cannot be imported: ") and setting.lower() in finished.stderr.lower()
    assert finished.stderr.endswith("; correct or unset the environment variable.\n")
