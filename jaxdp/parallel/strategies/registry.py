"""Table of synchronisation strategies, and the strategy of a configuration."""

from collections.abc import Callable

from jaxdp.errors import UserError
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.strategy import SyncStrategy
from jaxdp.parallel.strategies.zero import Zero
from jaxdp.run_config import ParallelConfig
from jaxdp.typing import PyTree


def _pmean(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Pmean:
    bucket_mb = parallel.bucket_mb
    if bucket_mb is None and topology.platform != "cpu":
        bucket_mb = 32.0
    buckets = GradientSync(parallel.wire_dtype, None if bucket_mb is None else int(bucket_mb * 2**20))
    return Pmean(topology.num_devices, buckets)


def _zero1(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Zero:
    return Zero(topology.num_devices, shapes, shard_params=False)


def _zero3(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Zero:
    return Zero(topology.num_devices, shapes, shard_params=True)


STRATEGIES: dict[str, Callable[[ParallelConfig, Topology, PyTree], SyncStrategy]] = {
    "pmean": _pmean,
    "zero1": _zero1,
    "zero3": _zero3,
}
"""Strategies by name: (configuration, devices, true shapes of the parameters) -> strategy. A new one is a file and a line here."""


def make_strategy(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> SyncStrategy:
    """Returns the synchronisation strategy of a configuration.

    Args:
        parallel: Configuration; `sync` names the strategy.
        topology: Devices.
        shapes: True shapes of the parameters.

    Raises:
        UserError: `parallel.sync` is unknown, or an option does not fit it.
    """
    if parallel.sync not in STRATEGIES:
        raise UserError(f"parallel.sync={parallel.sync!r} is unknown; choose {' or '.join(STRATEGIES)}.")
    return STRATEGIES[parallel.sync](parallel, topology, shapes)
