"""Fixtures of the launch scripts, and those of tiny runs."""

import pytest
from fake_machine import Machine
from tiny_runs import compilation_cache, config_file, trained

__all__ = ["compilation_cache", "config_file", "trained"]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)
