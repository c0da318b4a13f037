"""Files read with `pread`: cut short, removed, damaged and shared, without a signal and without a wrong byte."""

import errno
import json
import os
import pickle
import resource
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest

from jaxdp.data import block_file
from jaxdp.data.block_checksums import BLOCK_BYTES, read_block_checksums, write_block_checksums
from jaxdp.data.block_file import BlockFile
from jaxdp.data.preparing.cache import ENTRY, cached, entry_path, is_whole
from jaxdp.data.sequences.element_arrays import open_disk_array
from jaxdp.errors import UserError

NUM_BYTES = 5 * BLOCK_BYTES + 1000


@pytest.fixture(params=["kept in memory", "read anew"], autouse=True)
def memory(request, monkeypatch):
    """Both ways of reading a file."""
    monkeypatch.setattr(block_file, "MEMORY_BYTES", 1 << 40 if request.param == "kept in memory" else 0)


def content(num_bytes=NUM_BYTES):
    return np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8)


def make_entry(root, log=print):
    """A cache entry with one array of five and a bit blocks."""
    return cached(entry_path(root, "tokens", {}), lambda directory: content().tofile(directory / "tokens.bin"), log)


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 16]))


def test_checksums_are_crc32_of_blocks(tmp_path):
    content().tofile(tmp_path / "a")
    write_block_checksums(tmp_path / "a")
    blocks = [content()[start : start + BLOCK_BYTES] for start in range(0, NUM_BYTES, BLOCK_BYTES)]
    assert read_block_checksums(tmp_path / "a").tolist() == [zlib.crc32(block) for block in blocks]
    (tmp_path / "empty").touch()
    write_block_checksums(tmp_path / "empty")
    assert read_block_checksums(tmp_path / "empty").size == 0


@pytest.mark.parametrize("block", range(6))
def test_a_damaged_block_is_found_when_it_is_used_and_the_entry_is_built_again(tmp_path, block):
    entry = make_entry(tmp_path)
    path = entry / "tokens.bin"
    flip(path, block * BLOCK_BYTES + 500)
    assert is_whole(entry) == (block in (1, 2, 3, 4))  # the middle is not looked at before it is used
    array = open_disk_array(path, np.uint8, NUM_BYTES, entry)
    for good in {*range(6)} - {block}:
        at = good * BLOCK_BYTES
        assert array.take(np.array([at]), 999).tolist() == [content()[at : at + 999].tolist()]
    with pytest.raises(UserError) as error:
        array.take(np.array([0, block * BLOCK_BYTES + 600]), 8)
    assert error.value.exit_code == 2
    assert str(error.value) == (
        f"{path} in the cache of prepared data is damaged: the checksum of block {block} of 1 MiB differs; run the same "
        "command again, which prepares it again."
    )
    said = []
    again = make_entry(tmp_path, said.append)
    assert said == [f"{entry} is damaged and is built again"]
    np.testing.assert_array_equal(
        open_disk_array(again / "tokens.bin", np.uint8, NUM_BYTES, again).to_numpy(), content()
    )


def test_a_block_is_checked_wherever_it_is_first_touched(tmp_path):
    """By a run that begins before it, ends in it, or covers it."""
    entry = make_entry(tmp_path)
    flip(entry / "tokens.bin", 2 * BLOCK_BYTES + 5)
    for start, end in (
        (2 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES + 1),
        (BLOCK_BYTES, 4 * BLOCK_BYTES),
        (3 * BLOCK_BYTES - 1, 3 * BLOCK_BYTES + 1),
    ):
        for read in (
            lambda array, start, end: array.take(np.array([start]), end - start),
            lambda array, start, end: array.take_ragged(np.array([start]), np.array([end - start])),
        ):
            with pytest.raises(UserError, match="block 2 of 1 MiB"):
                read(open_disk_array(entry / "tokens.bin", np.uint8, NUM_BYTES, entry), start, end)


def test_an_entry_that_cannot_be_discarded_is_named(tmp_path, monkeypatch):
    entry = make_entry(tmp_path)
    flip(entry / "tokens.bin", 2 * BLOCK_BYTES)
    monkeypatch.setattr(type(entry), "unlink", fail_with(errno.EROFS))
    with pytest.raises(UserError, match=rf"delete {entry} and run the same command again"):
        open_disk_array(entry / "tokens.bin", np.uint8, NUM_BYTES, entry).to_numpy()


def fail_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_an_entry_that_was_built_again_meanwhile_stays(tmp_path):
    entry = make_entry(tmp_path)
    array = open_disk_array(entry / "tokens.bin", np.uint8, NUM_BYTES, entry)
    flip(entry / "tokens.bin", 2 * BLOCK_BYTES)
    (entry / ENTRY).unlink()
    make_entry(tmp_path)
    with pytest.raises(UserError, match="run the same command again"):
        array.to_numpy()
    assert is_whole(entry)


@pytest.mark.parametrize("size", [0, 1, 3 * BLOCK_BYTES, NUM_BYTES - 1])
def test_a_file_that_is_cut_short_while_it_is_read(tmp_path, size):
    """The file of a user, and that of a cache entry."""
    path = tmp_path / "tokens.bin"
    content().tofile(path)
    array = open_disk_array(path, np.uint8)
    os.truncate(path, size)
    with pytest.raises(
        UserError, match=rf"{path} became shorter while it was read: expected {NUM_BYTES:,} bytes, found {size:,}"
    ):
        array.take(np.array([0, NUM_BYTES - 10]), 10)
    entry = make_entry(tmp_path)
    array = open_disk_array(entry / "tokens.bin", np.uint8, NUM_BYTES, entry)
    os.truncate(entry / "tokens.bin", size)
    with pytest.raises(
        UserError, match=f"is damaged: it has {size:,} of {NUM_BYTES:,} bytes; run the same command again"
    ):
        array.take(np.array([0, NUM_BYTES - 10]), 10)
    assert not is_whole(entry)


def test_a_file_that_is_removed_or_replaced_is_read_on(tmp_path):
    path = tmp_path / "tokens.bin"
    content().tofile(path)
    array = open_disk_array(path, np.uint8)
    path.unlink()
    path.write_bytes(b"other")
    np.testing.assert_array_equal(array.to_numpy(), content())


def test_what_is_no_file_of_that_size_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "short").write_bytes(b"123")
    for name, reason in {
        "fifo": "Not a regular file",
        ".": "Not a regular file",
        "loop": "symbolic links",
        "none": "No such file",
    }.items():
        with pytest.raises(UserError, match=rf"cannot be read \(.*{reason}"):
            open_disk_array(tmp_path / name, np.uint8, 1)
    with pytest.raises(UserError, match="expected 4 bytes, found 3"):
        open_disk_array(tmp_path / "short", np.uint16, 2)


def test_an_error_of_the_disk_is_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "tokens.bin"
    content().tofile(path)
    array = open_disk_array(path, np.uint8)
    monkeypatch.setattr(os, "preadv", fail_with(errno.EIO))
    with pytest.raises(UserError, match=r"tokens\.bin cannot be read \(Input/output error\)"):
        array.take(np.array([0]), 1)


def test_reads_that_stop_short_of_their_end_are_continued(tmp_path, monkeypatch):
    """As the kernel does beyond 2 GiB."""
    path, preadv = tmp_path / "tokens.bin", os.preadv
    content().tofile(path)
    monkeypatch.setattr(
        os,
        "preadv",
        lambda descriptor, buffers, at: preadv(descriptor, [memoryview(buffers[0]).cast("B")[:100_000]], at),
    )
    np.testing.assert_array_equal(open_disk_array(path, np.uint16).to_numpy(), content().view(np.uint16))


def test_threads_share_an_array(tmp_path):
    entry = make_entry(tmp_path)
    array, found = open_disk_array(entry / "tokens.bin", np.uint8, NUM_BYTES, entry), {}

    def read(number):
        starts = np.random.default_rng(number).integers(0, NUM_BYTES - 64, 2000)
        expected = content()[starts[:, None] + np.arange(64)]
        found[number] = all(
            np.array_equal(array.take(starts[i : i + 50], 64), expected[i : i + 50]) for i in range(0, 2000, 50)
        )

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(8), True)


FORKED = r"""
import os, sys
import numpy as np
from jaxdp.data.sequences.element_arrays import open_disk_array

array = open_disk_array(sys.argv[1], np.uint8)
array.take(np.array([0]), 10)
if not (child := os.fork()):
    os.write(1, f"{array.to_numpy().sum()}\n".encode())
    os._exit(0)
os.write(1, f"{array.to_numpy().sum()}\n".encode())
os.waitpid(child, 0)
"""


def test_other_processes_read_an_array(tmp_path):
    entry = make_entry(tmp_path)
    array = open_disk_array(entry / "tokens.bin", np.uint8, NUM_BYTES, entry)
    array.take(np.array([0]), 10)
    spawned = pickle.loads(pickle.dumps(array.part(1, 11)))  # what a spawned process is given
    np.testing.assert_array_equal(spawned.to_numpy(), content()[1:11])
    forked = subprocess.run(
        [sys.executable, "-c", FORKED, entry / "tokens.bin"], capture_output=True, text=True, check=True
    )
    assert list(map(int, forked.stdout.split())) == [content().sum()] * 2


def test_memory_and_descriptors_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(block_file, "MEMORY_BYTES", 2 * NUM_BYTES)
    content().tofile(tmp_path / "a")
    used = block_file._budget._used
    monkeypatch.setattr(block_file._budget, "_used", 0)
    files = [BlockFile(tmp_path / "a") for _ in range(3)]
    assert [file.memory is None for file in files] == [False, False, True]
    descriptors = len(os.listdir("/proc/self/fd"))
    files.clear()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 3
    assert block_file._budget._used == 0
    assert BlockFile(tmp_path / "a").memory is not None
    monkeypatch.setattr(block_file._budget, "_used", used)


def test_more_files_than_a_process_may_open_at_first(tmp_path):
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    content(10).tofile(tmp_path / "a")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, most))
        files = [BlockFile(tmp_path / "a") for _ in range(50)]
        assert len({file._descriptor for file in files}) == 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def test_the_entry_lists_the_checksums_too(tmp_path):
    entry = make_entry(tmp_path)
    assert json.loads((entry / ENTRY).read_text())["files"].keys() == {"tokens.bin", "tokens.bin.crc32"}
    flip(entry / "tokens.bin.crc32", 9)
    assert not is_whole(entry)
