"""Shards of several processes: nothing is committed before all of them are on disk."""

import threading
import time

import numpy as np
import pytest
from tiny_processes import as_processes

from jaxdp.checkpoint import shard_records
from jaxdp.checkpoint.files import describe_file
from jaxdp.checkpoint.names import leftover_step
from jaxdp.checkpoint.shard_records import ShardRecord, collect_shards, files_of, pieces_of, write_shards
from jaxdp.errors import ProcessLost
from jaxdp.parallel.host_blocks import Range
from jaxdp.safetensors_file import read_array, read_header


def write(unfinished, process):
    held = Range(1, 3 * process, 3 * process + 3)
    write_shards(unfinished, process, {"kernel": np.full((2, 3), process, np.float32)}, {"kernel": held})


@pytest.fixture
def unfinished(tmp_path):
    directory = tmp_path / "20.saving-0123456789ab"
    directory.mkdir()
    return directory


def test_the_shards_of_all_processes_are_moved_into_the_checkpoint(unfinished):
    def function(control_plane):
        write(unfinished, control_plane.process_index)
        return collect_shards(unfinished, control_plane) if control_plane.is_main_process else None

    records, *_ = as_processes(3, function)
    assert pieces_of(records) == {
        "kernel": {"axis": 1, "ranges": {"shards_0": [0, 3], "shards_1": [3, 6], "shards_2": [6, 9]}}
    }
    assert [path.name for path in unfinished.parent.iterdir()] == [unfinished.name]
    names = [f"shards_{process}.safetensors" for process in range(3)]
    assert sorted(path.name for path in unfinished.iterdir()) == names
    assert files_of(records) == {name: describe_file(unfinished / name) for name in names}
    for process, name in enumerate(names):
        array = read_array(unfinished / name, read_header(unfinished / name)["kernel"])
        np.testing.assert_array_equal(array, np.full((2, 3), process))


def test_a_range_that_two_processes_hold_is_one_piece():
    """As where a worker of local training has devices of several processes."""
    held = [Range(0, 0, 1), Range(0, 0, 1), Range(0, 1, 2), Range(0, 1, 2)]
    records = [ShardRecord(f"shards_{process}", {"kernel": part}, {}) for process, part in enumerate(held)]
    assert pieces_of(records) == {"kernel": {"axis": 0, "ranges": {"shards_0": [0, 1], "shards_2": [1, 2]}}}


def test_process_0_waits_for_the_last_record(unfinished):
    waited = []

    def function(control_plane):
        if not control_plane.is_main_process:
            time.sleep(0.3)
            waited.append(threading.get_ident())
            write(unfinished, 1)
            return None
        write(unfinished, 0)
        records = collect_shards(unfinished, control_plane)
        return len(records), len(waited)

    assert as_processes(2, function)[0] == (2, 1)


def test_a_process_that_does_not_write_is_named(unfinished, monkeypatch):
    monkeypatch.setattr(shard_records, "MAX_WAIT_SECS", 0.2)

    def function(control_plane):
        if control_plane.process_index == 1:
            return control_plane.allgather(None)
        write(unfinished, control_plane.process_index)
        try:
            return collect_shards(unfinished, control_plane) if control_plane.is_main_process else None
        except ProcessLost as error:
            return error
        finally:
            control_plane.allgather(None)

    error, *_ = as_processes(3, function)
    assert isinstance(error, ProcessLost) and error.exit_code == 70
    assert "checkpoint 20 is not committed: process 1 on " in str(error) and "process 2" not in str(error)
    assert list(unfinished.iterdir()) == []


def test_the_wait_ends_when_a_process_is_gone(unfinished):
    def function(control_plane):
        if not control_plane.is_main_process:
            raise RuntimeError("its disk is full")
        write(unfinished, 0)
        return collect_shards(unfinished, control_plane)

    error, _ = as_processes(2, function)
    assert isinstance(error, ProcessLost) and "process 1 on " in str(error) and "its disk is full" in str(error)
    assert list(unfinished.iterdir()) == []


def test_shards_that_are_not_what_was_recorded_are_refused(unfinished):
    def function(control_plane):
        write(unfinished, 0)
        path = unfinished.with_name(f"{unfinished.name}.shards") / "shards_0.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        return collect_shards(unfinished, control_plane)

    [error] = as_processes(1, function)
    assert isinstance(error, OSError) and "shards_0.safetensors" in str(error)


def test_what_a_kill_leaves_is_a_leftover(unfinished):
    write(unfinished, 1)
    names = {path.name for path in unfinished.parent.iterdir()}
    assert names == {unfinished.name, f"{unfinished.name}.shards"}
    assert {leftover_step(name) for name in names} == {20}
