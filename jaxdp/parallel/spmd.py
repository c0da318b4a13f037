"""SPMD programs with `jax.pmap`, or with `jax.jit` of `jax.shard_map`; the only file that calls them.

A function of one device's share becomes a program over all devices. It is lowered
and compiled once, ahead of time, and the compiled program is called on global
arrays. Calling pmap itself would convert every leaf of the state from host-local to
global and back at each step (28 ms instead of 5.7 ms with 450 leaves and 2 CPU
processes). Compile time, FLOPs and memory are known before step 1.

Inside the function replicated arguments have their true shapes (`in_axes=None`) and
mapped ones lose the device axis (`in_axes=0`). Results must be equal on all devices:
pmap does not check it and would silently return the value of device 0.

JAX keeps pmap in maintenance mode and recommends `jax.shard_map` for new code. The environment variable JAXDP_SPMD
selects it: the same function, arguments and results, so that a JAX without pmap changes this file only. It runs with
`check_vma=False` as pmap does: with the check, JAX itself would sum the gradients of replicated parameters over the
devices, and the strategies would sum them again.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdp.errors import UserError
from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.first_execution import FirstExecution
from jaxdp.parallel.layout import device_axes
from jaxdp.typing import PyTree

VARIABLE = "JAXDP_SPMD"
"""Environment variable with the name of a backend."""


@dataclasses.dataclass(frozen=True)
class Program:
    """Compiled SPMD program, called with global arrays of the shapes for which it was compiled."""

    call: Callable
    compile_secs: float
    device_bytes: int
    """Peak memory of one device: arguments, results and temporaries."""
    first_execution: FirstExecution

    def __call__(self, *arguments: PyTree) -> PyTree:
        """Dispatches the program; waits for the result only at the first execution on a GPU."""
        if self.first_execution.is_pending:
            return self.first_execution(self.call, *arguments)
        return self.call(*arguments)


def compile_spmd(
    function: Callable,
    topology: Topology,
    *specs: PyTree,
    donated: tuple[int, ...] = (),
    out_axes: PyTree = None,
) -> Program:
    """Compiles `function` for every device of `topology`.

    Args:
        function: Function of one device; may use collectives over `AXIS`.
        topology: Devices.
        *specs: Tree of ShapeDtypeStruct with shardings for each argument. Leaves with a sharding over the devices
            are `[num_devices, ...]` and mapped; the others are replicated.
        donated: Indices of the arguments whose buffers the program may overwrite.
        out_axes: Mapped axis of the results, a tree or a prefix of one: 0 if they are `[num_devices, ...]`, None if
            they are replicated.
    """
    start = time.perf_counter()
    mapped = _mapped(function, topology, specs, donated, out_axes)
    if topology.num_processes > 1 and backend_name() == "pmap":
        specs = _zeros(specs)
    with fixed_settings():
        compiled = mapped.lower(*specs).compile()
    return Program(
        compiled, time.perf_counter() - start, _device_bytes(compiled), FirstExecution(topology.platform)
    )  # fmt: skip


def trace_spmd(function: Callable, topology: Topology, *specs: PyTree, out_axes: PyTree = None) -> Any:
    """Traces `function` as `compile_spmd` compiles it, and returns the jaxpr of one device; compiles nothing."""
    with fixed_settings():
        return jax.make_jaxpr(_mapped(function, topology, specs, (), out_axes))(*specs)


def _mapped(
    function: Callable, topology: Topology, specs: tuple[PyTree, ...], donated: tuple[int, ...], out_axes: PyTree
) -> Any:
    """Returns the function over all devices, not yet traced."""
    return BACKENDS[backend_name()](function, topology, tuple(map(device_axes, specs)), donated, out_axes)


def _with_pmap(function: Callable, topology: Topology, in_axes: tuple, donated: tuple[int, ...], out_axes: PyTree):
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=out_axes,
        donate_argnums=donated,
        devices=topology.devices,
    )


def _with_shard_map(function: Callable, topology: Topology, in_axes: tuple, donated: tuple[int, ...], out_axes: PyTree):
    def of_one_device(*arguments: PyTree) -> PyTree:
        results = function(*_at_axes(in_axes, arguments, lambda leaf: leaf[0]))
        return _at_axes(out_axes, results, lambda leaf: jnp.asarray(leaf)[None])

    mapped = jax.shard_map(
        of_one_device,
        mesh=topology.mesh,
        in_specs=_partition(in_axes),
        out_specs=_partition(out_axes),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donated)


BACKENDS = {"pmap": _with_pmap, "shard_map": _with_shard_map}
"""Functions (function, topology, in_axes, donated, out_axes) -> the function over all devices."""


def backend_name() -> str:
    """Returns the backend that JAXDP_SPMD names, by default pmap.

    Raises:
        UserError: There is no such backend.
    """
    name = os.environ.get(VARIABLE) or "pmap"
    if name not in BACKENDS:
        raise UserError(f"{VARIABLE}={name} is unknown; set it to one of: {', '.join(BACKENDS)}.")
    return name


def _at_axes(axes: PyTree, tree: PyTree, change: Callable[[jax.Array], jax.Array]) -> PyTree:
    """Changes the leaves whose mapped axis is 0.

    Args:
        axes: Mapped axis of each leaf, or of subtrees: 0 or None.
        tree: Arrays.
        change: Adds or removes the axis of the devices.
    """

    def changed(axis: int | None, subtree: PyTree) -> PyTree:
        return subtree if axis is None else jax.tree.map(change, subtree)

    return jax.tree.map(changed, axes, tree, is_leaf=_is_replicated)


def _partition(axes: PyTree) -> PyTree:
    """Returns the `PartitionSpec`s of mapped axes."""
    return jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(AXIS), axes, is_leaf=_is_replicated
    )


def _is_replicated(axis: Any) -> bool:
    """Returns True for None, which `jax.tree.map` otherwise takes for an empty tree."""
    return axis is None


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Sets the JAX settings under which jaxdp traces programs, independent of the environment and the caller.

    Otherwise a seed would give other numbers under `JAX_DEFAULT_PRNG_IMPL`, and programs would not trace
    under `JAX_ENABLE_X64`.
    """
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
    ):
        yield


def gather_rows(tree: PyTree) -> PyTree:
    """Gathers `[rows, ...]` of each device as `[rows of all devices, ...]` on every device; for use inside a program."""
    return jax.lax.all_gather(tree, AXIS, tiled=True)


def _zeros(specs: PyTree) -> PyTree:
    """Returns global arrays of these shapes and shardings.

    With several processes pmap lowers global arrays unchanged, but treats everything
    else, including shapes, as host-local data to convert.
    """
    shardings = jax.tree.map(lambda spec: spec.sharding, specs)
    zeros = jax.jit(
        lambda: jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), specs),
        out_shardings=shardings,
    )
    return zeros()


def _device_bytes(compiled) -> int:
    memory = compiled.memory_analysis()
    if memory is None:  # not provided by some backends
        return 0
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
