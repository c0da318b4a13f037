"""Message to the remaining processes after the loss of one."""

import threading
from types import SimpleNamespace

import pytest

from jaxdp.training import survivors
from jaxdp.training.survivors import advice_without_one


def advice(tmp_path, num_processes, batch, num_local_devices=2):
    topology = SimpleNamespace(num_processes=num_processes, num_local_devices=num_local_devices)
    return advice_without_one(tmp_path, topology, batch)()


@pytest.mark.parametrize(
    ("num_processes", "batch", "expected"),
    [
        (3, 8, "2 processes can continue without it from checkpoint 40: start with --num_processes=2 and --process_index=0 to 1"),
        (2, 8, "one process can continue without it from checkpoint 40: start with the same command without --coordinator"),
        (4, 8, ""),  # 6 devices do not divide 8 sequences
        (1, 8, ""),
    ],
)  # fmt: skip
def test_the_command_is_told_where_the_batch_divides(tmp_path, monkeypatch, num_processes, batch, expected):
    monkeypatch.setattr(survivors, "committed_steps", lambda checkpoints: [20, 40])
    assert expected in advice(tmp_path, num_processes, batch) and bool(expected) == bool(
        advice(tmp_path, num_processes, batch)
    )


def test_without_a_checkpoint_it_starts_again(tmp_path):
    assert "can continue without it from the start, as nothing is saved yet" in advice(tmp_path, 2, 8)


def test_a_machine_without_the_newest_checkpoint_names_no_step():
    assert "can continue without it from the newest checkpoint: start with" in advice(None, 2, 8)


def test_a_file_system_that_does_not_answer_delays_nobody(tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(survivors, "READ_SECS", 0.05)
    monkeypatch.setattr(survivors, "committed_steps", lambda checkpoints: release.wait(60))
    assert advice(tmp_path, 2, 8) == ""
    release.set()
