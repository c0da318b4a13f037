"""Names for the values that pass between floors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PyTree = Any
"""A nest of dicts, tuples and dataclasses with arrays at the leaves."""

HostBatch = Mapping[str, np.ndarray]
"""Arrays by name on the host, all `[rows, ...]`: the rows of one process."""
