"""Table of synchronisation strategies, and the strategy of a configuration."""

import dataclasses
from collections.abc import Callable

from jaxdp.arguments import check_registration
from jaxdp.errors import UserError
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.devices import Topology, divisors_up_to
from jaxdp.parallel.fragments import LOCAL_STEPS, Fragments, num_layers
from jaxdp.parallel.outer_step import LEARNING_RATE, MOMENTUM, OuterOptimizer
from jaxdp.parallel.quantise import BITS
from jaxdp.parallel.strategies.compressed import Compressed
from jaxdp.parallel.strategies.delayed import Delayed
from jaxdp.parallel.strategies.local import Local
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.strategy import SyncStrategy
from jaxdp.parallel.strategies.zero import Zero
from jaxdp.parallel.worker_mean import WorkerMean
from jaxdp.parallel.worker_sync import WorkerSync
from jaxdp.parallel.workers import Workers
from jaxdp.run_config import ParallelConfig
from jaxdp.typing import PyTree

OPTIONS = {
    "bucket_mb": ("pmean", "local", "delayed"),
    "num_workers": ("local",),
    "local_steps": ("local",),
    "local_fragments": ("local",),
    "outer_learning_rate": ("local",),
    "outer_momentum": ("local",),
    "delay_steps": ("delayed",),
}
"""Optional key of `parallel` -> strategies that read it."""

WIRE_DTYPES = {
    "float32": ("pmean", "zero1", "zero3", "local", "delayed"),
    "bfloat16": ("pmean", "local", "delayed"),
    "int8": ("pmean", "local"),
    "int4": ("pmean", "local"),
}
"""Value of `parallel.wire_dtype` -> strategies that can send gradients in it, or `local` the differences of workers."""


def _pmean(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> SyncStrategy:
    if parallel.wire_dtype not in BITS:
        return Pmean(topology.num_devices, _buckets(parallel, topology))
    _check_no_buckets(parallel)
    # With one device nothing is sent.
    is_alone = topology.num_devices == 1
    return Pmean(1) if is_alone else Compressed(topology.num_devices, BITS[parallel.wire_dtype])


def _check_no_buckets(parallel: ParallelConfig) -> None:
    if parallel.bucket_mb is not None:
        raise UserError(
            f"parallel.bucket_mb={parallel.bucket_mb} has no effect with parallel.wire_dtype={parallel.wire_dtype}, which "
            "sends one buffer; leave it unset."
        )


def _buckets(parallel: ParallelConfig, topology: Topology) -> GradientSync:
    bucket_mb = parallel.bucket_mb
    if bucket_mb is None and topology.platform != "cpu":
        bucket_mb = 32.0
    return GradientSync(parallel.wire_dtype, None if bucket_mb is None else int(bucket_mb * 2**20))


def _zero1(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Zero:
    return Zero(topology.num_devices, shapes, shard_params=False)


def _zero3(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Zero:
    return Zero(topology.num_devices, shapes, shard_params=True)


def _delayed(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Delayed:
    return Delayed(topology.num_devices, _buckets(parallel, topology), num_steps=parallel.delay)


def _local(parallel: ParallelConfig, topology: Topology, shapes: PyTree) -> Local:
    num_devices = topology.num_devices
    num_workers = parallel.num_workers or num_devices
    if num_devices % num_workers:
        fitting = ", ".join(map(str, divisors_up_to(num_devices, num_devices)))
        raise UserError(
            f"parallel.num_workers={num_workers} must divide the {num_devices} devices into groups of equal size; use "
            f"one of {fitting}."
        )
    fragments = Fragments(parallel.local_fragments or 1, parallel.local_steps or LOCAL_STEPS)
    if fragments.count > min(num_layers(shapes), fragments.period):
        raise UserError(
            f"parallel.local_fragments={fragments.count} must be at most the number of layers ({num_layers(shapes)}) and "
            f"parallel.local_steps={fragments.period}, since each fragment has a layer and a step of its own."
        )
    rate, momentum = parallel.outer_learning_rate, parallel.outer_momentum
    outer = OuterOptimizer(LEARNING_RATE if rate is None else rate, MOMENTUM if momentum is None else momentum)
    workers, bits = Workers(num_devices, num_workers), BITS.get(parallel.wire_dtype)
    if bits and workers.group_size == 1:
        _check_no_buckets(parallel)
    # Within a worker gradients are sums of float32.
    of_gradients = _buckets(dataclasses.replace(parallel, wire_dtype="float32"), topology)
    of_differences = of_gradients if bits else _buckets(parallel, topology)
    sync = WorkerSync(fragments, outer, WorkerMean(workers, of_differences, bits))
    return Local(num_devices, workers, sync, of_gradients)


STRATEGIES: dict[str, Callable[[ParallelConfig, Topology, PyTree], SyncStrategy]] = {
    "pmean": _pmean,
    "zero1": _zero1,
    "zero3": _zero3,
    "delayed": _delayed,
    "local": _local,
}
"""Strategies by name: (configuration, devices, true shapes of the parameters) -> strategy. A new one is a file and a line here."""


_BUILT_IN = frozenset(STRATEGIES)


def register_strategy(name: str, make: Callable[[ParallelConfig, Topology, PyTree], SyncStrategy]) -> None:
    """Makes `parallel.sync = name` use a synchronisation strategy; a later registration of the name replaces it.

    Args:
        name: Name of the strategy.
        make: Function (configuration, devices, true shapes of the parameters) -> strategy.

    Raises:
        UserError: The name is not a string or that of a built-in strategy, or the function cannot be called.
    """
    what = "a function (parallel, topology, shapes) -> SyncStrategy"
    check_registration("strategy", name, make, what, ["parallel", "topology", "shapes"], _BUILT_IN)
    STRATEGIES[name] = make


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
    for key, strategies in OPTIONS.items():
        value = getattr(parallel, key)
        if value is not None and parallel.sync in _BUILT_IN and parallel.sync not in strategies:
            raise UserError(
                f"parallel.{key}={value} has no effect with parallel.sync={parallel.sync}; leave it unset, or set "
                f"parallel.sync={' or '.join(strategies)}."
            )
    _check_wire_dtype(parallel)
    return STRATEGIES[parallel.sync](parallel, topology, shapes)


def _check_wire_dtype(parallel: ParallelConfig) -> None:
    dtype, sync = parallel.wire_dtype, parallel.sync
    if dtype not in WIRE_DTYPES:
        raise UserError(f"parallel.wire_dtype={dtype!r} is unknown; choose {' or '.join(WIRE_DTYPES)}.")
    if sync in _BUILT_IN and sync not in WIRE_DTYPES[dtype]:
        able = [name for name, strategies in WIRE_DTYPES.items() if sync in strategies]
        why = "needs error feedback, which is not part of" if dtype in BITS else "is not available with"
        raise UserError(
            f"parallel.wire_dtype={dtype} {why} parallel.sync={sync}; set parallel.wire_dtype="
            f"{' or '.join(able)}, or parallel.sync={' or '.join(WIRE_DTYPES[dtype])}."
        )
