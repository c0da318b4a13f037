"""A short chaos: every fault of `chaos.py`, few times."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_fault_changes_how_a_run_ends(tmp_path):
    script = Path(__file__).with_name("chaos.py")
    options = [
        "--kills=6",
        "--sharded_kills=6",
        "--remote_kills=6",
        "--remote_process_kills=3",
        "--flips=20",
        "--replica_flips=1",
        "--signals=4",
        "--instants=6",
        "--reuses=2",
        "--goodput_kills=4",
        "--faults=13",
        "--connections=1000",
        f"--directory={tmp_path / 'chaos'}",
    ]
    process = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
