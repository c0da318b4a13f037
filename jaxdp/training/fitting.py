"""Microbatch sizes and settings with which a train step fits the memory of its devices, found by compiling."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from jaxdp.errors import UserError
from jaxdp.model.attention_backends.registry import model_backend
from jaxdp.parallel.devices import divisors_up_to
from jaxdp.parallel.spmd import Program
from jaxdp.run_config import RunConfig
from jaxdp.training.device_memory import StepMemory, device_bytes, divided, step_memory
from jaxdp.training.step_setup import StepSetup

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""Status of XLA's errors about memory."""

MAX_TRIES = 6
"""Maximum number of programs that are compiled to find the largest microbatch."""

MIN_SAVING = 0.02
"""Smallest share of the memory that counts as a saving."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """Outcome of compiling a train step.

    Attributes:
        memory: Bytes of one device by kind.
        program: The program; None: the compiler refused it because it needs more memory than the device has.
    """

    memory: StepMemory
    program: Program | None


def compile_fitting(setup: StepSetup) -> CompiledStep:
    """Compiles the train step; one that the compiler refuses for its memory is described by the refusal."""
    try:
        program = setup.compile_step()
    except jax.errors.JaxRuntimeError as error:
        needed = refused_bytes(str(error))
        if needed is None:
            raise
        return CompiledStep(_refused_memory(setup, needed), None)
    return CompiledStep(step_memory(setup, program), program)


def needed_bytes(compile_program: Callable[[], Program], arguments: int) -> int:
    """Returns the bytes of a program on one device; of one that the compiler refuses, its arguments and what the refusal names.

    Args:
        compile_program: Compiles the program.
        arguments: Bytes of its arguments, which a refusal leaves out.
    """
    try:
        return compile_program().device_bytes
    except jax.errors.JaxRuntimeError as error:
        refused = refused_bytes(str(error))
        if refused is None:
            raise
        return arguments + refused


def state_bytes(setup: StepSetup) -> int:
    """Returns the bytes of the train state on one device."""
    return device_bytes(jax.tree.leaves(setup.placement.abstract), setup.topology.num_devices)


def refused_bytes(message: str) -> int | None:
    """Returns the bytes of temporaries in a compiler's refusal of a program; None: it is another error."""
    if OUT_OF_MEMORY not in message:
        return None
    found = re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * _UNITS[unit])


def _refused_memory(setup: StepSetup, temporaries: int) -> StepMemory:
    return divided(setup, state_bytes(setup) + temporaries, temporaries, 0)


def largest_microbatch(
    num_rows: int, limit: int, needed: Callable[[int], int], known: Mapping[int, int] = MappingProxyType({})
) -> tuple[int, dict[int, int]]:
    """Finds the largest microbatch size whose step fits, with few compilations.

    The memory of a step grows almost linearly with the microbatch, so the next size to try is where the line through the
    nearest known sizes meets the limit; the first is the whole share of a device. The size that is returned has been
    compiled; so has the next larger one, unless `MAX_TRIES` were not enough.

    Args:
        num_rows: Examples of one device; microbatch sizes divide them.
        limit: Bytes that the step may use.
        needed: Function from a microbatch size to the bytes of its step, which compiles it.
        known: Bytes by microbatch size, as far as they are known.

    Returns:
        The size, 0 if not even one example fits, and the bytes of all sizes that were tried.
    """
    sizes, tried = divisors_up_to(num_rows, num_rows), dict(known)
    for _ in range(MAX_TRIES):
        fitting = max((size for size in tried if tried[size] <= limit), default=0)
        too_large = min((size for size in tried if tried[size] > limit), default=num_rows + 1)
        candidates = [size for size in sizes if fitting < size < too_large]
        if not candidates:
            break
        guess = _size_at(limit, tried) if tried else num_rows
        size = max((size for size in candidates if size <= guess), default=candidates[0])
        tried[size] = needed(size)
    return max((size for size in tried if tried[size] <= limit), default=0), tried


def _size_at(limit: int, tried: Mapping[int, int]) -> float:
    """Returns the microbatch size at which the line through two known sizes meets the limit."""
    if len(tried) == 1:
        [(size, used)] = tried.items()
        return size * limit / used
    (low, of_low), (high, of_high) = sorted(sorted(tried.items(), key=lambda each: abs(each[1] - limit))[:2])
    return low + (limit - of_low) * (high - low) / max(of_high - of_low, 1)


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Setting that lowers the memory of a step.

    Attributes:
        setting: Keys of the configuration, e.g. "model.remat=dots".
        cost: Cost in step time, in words.
        saved: Bytes of one device that it saves.
    """

    setting: str
    cost: str
    saved: int


REMAT_COSTS = {
    "dots_attention": "a few percent more time: norms and activations are computed twice",
    "dots": "about 5 % more time",
    "attention": "about a quarter more time",
    "full": "about a third more time",
}
"""Policy of `model.remat` -> its cost in words, from the cheapest on."""

_POLICIES = ("none", *REMAT_COSTS)

_Change = tuple[str, str, dict[str, Any]]
"""(setting, cost, changes of the configuration)."""


def _changes(config: RunConfig, setup: StepSetup) -> list[_Change]:
    """Returns everything that may lower the memory, the cheapest first."""
    shape, model, sync = setup.shape, setup.model.config, config.parallel.sync
    can_shard = shape.num_devices > 1 and config.parallel.wire_dtype == "float32"
    sizes = divisors_up_to(shape.device_batch_size, shape.microbatch_size // 2)
    backend, _ = model_backend(model)
    is_plain = model.platform != "cpu" and backend is None

    def remat(policy: str) -> tuple[bool, str, str, dict[str, Any]]:
        saves_less = _POLICIES.index(policy) > _POLICIES.index(model.remat)
        return saves_less, f"model.remat={policy}", REMAT_COSTS[policy], {"model": {"remat": policy}}

    candidates: list[tuple[bool, str, str, dict[str, Any]]] = [
        (
            is_plain and model.attention == "plain",
            "model.attention=auto",
            "no time: fused attention is faster",
            {"model": {"attention": "auto"}},
        ),
        (
            is_plain and model.attention_dropout_rate > 0,
            "model.attention_dropout_rate=0.0",
            "no time: attention can be fused; changes the training",
            {"model": {"attention": "auto", "attention_dropout_rate": 0.0}},
        ),
        (
            model.loss_chunk == 0,
            "model.loss_chunk=None",
            "next to no time: logits of a chunk of tokens at a time",
            {"model": {"loss_chunk": None}},
        ),
        (
            can_shard and sync == "pmean",
            "parallel.sync=zero1",
            "no time: as many bytes on the wire",
            {"parallel": {"sync": "zero1", "bucket_mb": None}},
        ),
        (
            bool(sizes),
            f"microbatch_size={sizes[-1] if sizes else 0}",
            "little time: smaller matrix products",
            {"microbatch_size": sizes[-1] if sizes else 0},
        ),
        *[remat(policy) for policy in ("dots_attention", "dots")],
        (
            can_shard and sync in ("pmean", "zero1"),
            "parallel.sync=zero3",
            "time for 1.5 times the bytes on the wire",
            {"parallel": {"sync": "zero3", "bucket_mb": None}},
        ),
        *[remat(policy) for policy in ("attention", "full")],
    ]
    return [(setting, cost, changes) for applies, setting, cost, changes in candidates if applies]


def remedies(
    config: RunConfig,
    setup: StepSetup,
    total: int,
    make_setup: Callable[[RunConfig], StepSetup],
    progress: Callable[[str], None] = lambda setting: None,
    *,
    known: Mapping[int, int] = MappingProxyType({}),
    max_count: int | None = None,
) -> Sequence[Remedy]:
    """Compiles the train step with one setting changed at a time, and returns those that save memory, the cheapest first.

    Args:
        config: Configuration of the run.
        setup: Its setup.
        total: Bytes of its step.
        make_setup: Function from a configuration to its setup on the same devices.
        progress: Called with the setting that is compiled next.
        known: Bytes of the step by microbatch size, as far as they are known.
        max_count: Number of remedies after which the search ends; None: all.
    """
    found: list[Remedy] = []
    for setting, cost, changes in _changes(config, setup):
        if max_count is not None and len(found) == max_count:
            break
        needed = known.get(changes.get("microbatch_size", 0))
        if needed is None:
            progress(setting)
            try:
                needed = compile_fitting(make_setup(config.replaced(**changes))).memory.total
            except UserError:  # the setting does not suit this configuration: a strategy may refuse an option of it
                continue
        saved = total - needed
        if saved > MIN_SAVING * total:
            found.append(Remedy(setting, cost, saved))
    return found
