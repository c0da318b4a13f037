"""Cache entries: whole or absent, made once, made again when damaged."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxdp.data.preparing import cache
from jaxdp.data.preparing.cache import ENTRY, cached, entry_path, is_whole
from jaxdp.errors import UserError

KEY = {"data": "abc", "length": 8}


def fill(directory):
    (directory / "part").mkdir()
    (directory / "part" / "tokens.bin").write_bytes(b"tokens" * 1000)
    (directory / "numbers.json").write_text("{}")


def build(root, log=lambda sentence: None):
    return cached(entry_path(root, "tokens", KEY), fill, log)


def test_the_name_is_a_function_of_the_key_alone(tmp_path):
    name = entry_path(tmp_path, "tokens", KEY).name
    assert name == entry_path(tmp_path / "other", "tokens", dict(reversed(KEY.items()))).name
    assert name != entry_path(tmp_path, "tokens", KEY | {"length": 9}).name


def test_an_entry_is_built_once(tmp_path):
    entry = build(tmp_path)
    assert (entry / "part" / "tokens.bin").read_bytes() == b"tokens" * 1000
    assert cached(entry, lambda directory: pytest.fail("built again"), print) == entry


@pytest.mark.parametrize("file", ["part/tokens.bin", "numbers.json", ENTRY])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_seen_said_and_mended(tmp_path, file, damage):
    entry = build(tmp_path)
    path = entry / file
    content = path.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    assert not is_whole(entry)
    said = []
    build(tmp_path, said.append)
    assert said == [f"{entry} is damaged and is built again"]
    assert is_whole(entry) and path.read_bytes() == content


def test_a_build_that_fails_leaves_nothing_that_counts(tmp_path):
    def fail(directory):
        fill(directory)
        raise UserError("line 3 is no JSON")

    entry = entry_path(tmp_path, "tokens", KEY)
    with pytest.raises(UserError, match="line 3"):
        cached(entry, fail, print)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert is_whole(build(tmp_path))


BUILDER = """
import os, sys, time
from pathlib import Path
from jaxdp.data.preparing import cache
from jaxdp.data.preparing.cache import cached, entry_path

def fill(directory):
    print("building", flush=True)
    (directory / "half").write_text("half")
    sys.stdin.readline()
    (directory / "whole").write_text(str(os.getpid()))

entry = cached(entry_path(Path(sys.argv[1]), "tokens", {}), fill, lambda text: print(text, flush=True))
print("entry of", (entry / "whole").read_text(), flush=True)
"""


def builder(root):
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_one_process_builds_and_the_other_waits_and_says_so(tmp_path):
    first = builder(tmp_path)
    assert first.stdout.readline() == "building\n"
    second = builder(tmp_path)
    assert second.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    first.communicate("\n")
    assert second.communicate()[0] == f"entry of {first.pid}\n"


def test_a_killed_build_is_begun_anew(tmp_path):
    first = builder(tmp_path)
    assert first.stdout.readline() == "building\n"
    while not list(tmp_path.glob("*.partial/half")):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = builder(tmp_path)
    assert second.communicate("\n")[0] == f"building\nentry of {second.pid}\n"
    [entry] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert json.loads((entry / ENTRY).read_text())["files"].keys() == {"half", "whole"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"set data\.cache_dir to another directory"):
        build(tmp_path)


def test_a_cache_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache_dir=.*file.* cannot be written to"):
        build(tmp_path / "file" / "cache")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80", b'{"host": "\xc3"}', b"\x00" * 100])
def test_a_lock_file_with_binary_content_is_no_obstacle(tmp_path, content):
    """Held by another process, then free."""
    entry, said = entry_path(tmp_path, "tokens", KEY), []
    lock = entry.with_name(entry.name + ".lock")
    lock.write_bytes(content)
    with open(lock, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def log(sentence):
            said.append(sentence)
            fcntl.flock(other, fcntl.LOCK_UN)

        build(tmp_path, log)
    assert said == [f"waiting for another process, which prepares the same data in {tmp_path}"]
    assert is_whole(entry)


def fail_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOLCK, errno.EROFS])
def test_a_cache_that_cannot_be_locked(tmp_path, monkeypatch, number):
    """Needed only where something is to be built."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail_with(number))
        message = rf"data\.cache_dir={tmp_path} cannot be written to \({os.strerror(number)}\); make room there, or set data\.cache_dir"
        with pytest.raises(UserError, match=message):
            build(tmp_path)
    entry = build(tmp_path)
    monkeypatch.setattr(fcntl, "flock", fail_with(number))
    assert build(tmp_path) == entry


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("when", ["data", "checksums", "list"])
def test_a_full_disk_leaves_no_entry(tmp_path, monkeypatch, number, when):
    with monkeypatch.context() as patch:
        if when == "list":
            patch.setattr(os, "fsync", fail_with(number))
        elif when == "checksums":
            patch.setattr(cache, "write_block_checksums", fail_with(number))
        make = fail_with(number) if when == "data" else fill
        with pytest.raises(
            UserError, match=rf"cannot be written to \({os.strerror(number)}\); make room there"
        ) as error:
            cached(entry_path(tmp_path, "tokens", KEY), make, print)
    assert error.value.exit_code == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert is_whole(build(tmp_path))


KINDS = {
    "directory": os.mkdir,
    "FIFO": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "dangling link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "file": lambda path: path.write_text("other"),
    "nesting": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".", ENTRY, "part", "part/tokens.bin", "part/tokens.bin.crc32", "numbers.json"])
def test_another_kind_in_the_place_of_a_file_is_built_again(tmp_path, name, kind):
    path = build(tmp_path) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    KINDS[kind](path)
    said = []
    entry = build(tmp_path, said.append)
    assert said == [f"{entry} is damaged and is built again"]
    assert is_whole(entry) and (entry / "part" / "tokens.bin").read_bytes() == b"tokens" * 1000


@pytest.mark.parametrize("kind", ["directory", "FIFO", "loop"])
def test_another_kind_in_the_place_of_a_lock_is_a_sentence(tmp_path, kind):
    lock = tmp_path / f"{entry_path(tmp_path, 'tokens', KEY).name}.lock"
    KINDS[kind](lock)
    with pytest.raises(UserError, match=rf"data\.cache_dir={tmp_path} cannot be written to"):
        build(tmp_path)
