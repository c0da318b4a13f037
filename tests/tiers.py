"""Tiers of parametrised tests: cases that always run, and cases that run with `pytest -m slow`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def others_slow(cases: Iterable[Any], *kept: Any, key: Callable[[Any], Any] = lambda case: case) -> list[Any]:
    """Returns the cases, with those marked slow that are not kept; `key` names a case."""
    cases = list(cases)
    missing = set(kept) - {key(case) for case in cases}
    assert not missing, f"no such cases: {missing}"
    return [case if key(case) in kept else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def other_rows_slow(cases: Iterable[tuple[Any, ...]], *kept: tuple[Any, ...]) -> list[Any]:
    """Returns cases of several arguments each, with those marked slow that are not kept."""
    cases = list(cases)
    missing = [row for row in kept if row not in cases]
    assert not missing, f"no such cases: {missing}"
    return [row if row in kept else pytest.param(*row, marks=pytest.mark.slow) for row in cases]
