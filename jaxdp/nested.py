"""Nested mappings, such as configurations: dotted keys, and differences between two of them."""

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a nested mapping by dotted key, e.g. `optim.learning_rate`.

    Args:
        values: Mapping whose values are leaves or mappings.
        prefix: Text before each key.
    """
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compares the leaves of two nested mappings.

    Returns:
        (dotted key, old value, new value) of every leaf that differs; a missing leaf is None.
    """
    old, new = flatten(old), flatten(new)
    return [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]
