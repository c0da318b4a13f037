"""Type aliases shared by all floors: parameter trees and host batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PyTree = Any
"""Nested dicts, tuples and dataclasses with arrays as leaves."""

HostBatch = Mapping[str, np.ndarray]
"""One process's share of a batch on the host: arrays `[examples, ...]` by name."""
