"""Lint and format of the code, as `ruff` of pyproject.toml has them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_finds_nothing(command):
    places = ("jaxdp", "tests", "configs", "launch", "docs/generate.py")
    outcome = subprocess.run(
        [sys.executable, "-m", "ruff", *command.split(), "--quiet", "--no-cache", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
