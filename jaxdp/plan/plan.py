"""Plan of a configuration on one target: memory, largest microbatch, collectives, step time, and what would help."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdp.config_values import AUTO
from jaxdp.hardware.accelerators import published
from jaxdp.model import num_parameters
from jaxdp.model.attention_backends.registry import model_backend
from jaxdp.parallel.devices import Topology
from jaxdp.plan.ceilings import Rates, measured_rates, published_rates, scaling, step_time
from jaxdp.plan.collectives import Collective, collectives_of
from jaxdp.plan.data_free import data_free_setup
from jaxdp.plan.programs import compile_decoding, decoding_rows
from jaxdp.plan.targets import Target
from jaxdp.plan.topologies import device_limit, topology_of
from jaxdp.plan.work import work_of
from jaxdp.run_config import RunConfig
from jaxdp.training.auto_microbatch import FREE_SHARE
from jaxdp.training.device_memory import StepMemory, device_bytes
from jaxdp.training.fitting import (
    CompiledStep,
    compile_fitting,
    largest_microbatch,
    needed_bytes,
    remedies,
    state_bytes,
)
from jaxdp.training.step_setup import StepSetup

Progress = Callable[[str], None]


def plan_target(config: RunConfig, target: Target, progress: Progress = lambda what: None) -> dict[str, Any]:
    """Compiles the programs of a configuration for a target and returns its plan, as plain JSON values.

    Args:
        config: Configuration; its data is not read.
        target: Devices to plan for. Of those that are not here, the process must have `environment_for(target)`.
        progress: Called with what is compiled next.

    Raises:
        UserError: There is no plan, e.g. because the devices do not divide the batch.
    """
    topology = topology_of(target, config)
    limit, limit_source = device_limit(target, topology)
    setup, assumed = data_free_setup(config, topology)
    sizes: dict[int, CompiledStep] = {}

    def needed(size: int) -> int:
        progress(f"the train step with microbatch_size={size}")
        sizes[size] = compile_fitting(data_free_setup(config, topology, size)[0])
        return sizes[size].memory.total

    num_rows = setup.shape.device_batch_size
    if config.microbatch_size == AUTO:
        chosen, _ = largest_microbatch(num_rows, int(limit * (1 - FREE_SHARE)), needed)
        setup, assumed = data_free_setup(config, topology, chosen or 1)
    if setup.shape.microbatch_size not in sizes:
        needed(setup.shape.microbatch_size)
    step = sizes[setup.shape.microbatch_size]
    largest, _ = largest_microbatch(num_rows, limit, needed, {size: each.memory.total for size, each in sizes.items()})
    programs = _programs(setup, step.memory, progress)
    helpful = remedies(
        config,
        setup,
        step.memory.total,
        lambda changed: data_free_setup(changed, topology)[0],
        lambda setting: progress(f"the train step with {setting}"),
        known={size: each.memory.total for size, each in sizes.items()},
    )
    # Of a step that the compiler refuses there is no program; its collectives are those of any other microbatch size.
    compiled = step if step.program else next((each for each in sizes.values() if each.program), step)
    backend, obstacle = model_backend(setup.model.config)
    return {
        "target": target.text,
        "device_kind": topology.kind,
        "devices": topology.num_devices,
        "sync": config.parallel.sync,
        "parameters": num_parameters(setup.model.config),
        "global_batch_size": setup.shape.global_batch_size,
        "microbatch_size": setup.shape.microbatch_size,
        "microbatches": setup.shape.num_microbatches,
        "length": config.data.length,
        "attention": backend.name if backend else "plain",
        "fits": all(program["total"] <= limit for program in programs.values() if program["in_training"]),
        "bytes": _kinds(step.memory) | {"total": step.memory.total, "device": limit},
        "limit_source": limit_source,
        "programs": programs,
        "max_microbatch_size": largest,
        "microbatches_tried": {str(size): each.memory.total for size, each in sorted(sizes.items())},
        "remedies": [dataclasses.asdict(remedy) for remedy in helpful],
        **_speed(setup, target, step.memory, _collectives(compiled)),
        "assumptions": [*assumed, *[f"plain attention, since {why}" for why in [obstacle] if why]],
    }


def _kinds(memory: StepMemory) -> dict[str, int]:
    return {name: size for name, size in dataclasses.asdict(memory).items() if name != "total"}


def _programs(setup: StepSetup, step: StepMemory, progress: Progress) -> dict[str, dict[str, Any]]:
    """Returns the bytes of one device in each program of the run, and whether training runs it."""
    found: dict[str, dict[str, Any]] = {"step": {"total": step.total, "in_training": True}}
    evaluated = device_bytes(jax.tree.leaves(setup.placement.abstract_eval_params), setup.topology.num_devices)
    others = state_bytes(setup) - evaluated
    progress("the evaluation")
    # The whole train state stays on the device meanwhile.
    found["evaluation"] = {
        "total": max(others, 0) + needed_bytes(setup.compile_eval_step, evaluated), "in_training": True,
        "rows": setup.shape.microbatch_size,
    }  # fmt: skip
    if rows := decoding_rows(setup):
        progress("decoding")
        total = needed_bytes(lambda: compile_decoding(setup), evaluated)
        found["decoding"] = {"total": total, "in_training": False, "rows": rows}
    return found


def _collectives(step: CompiledStep) -> list[Collective]:
    return collectives_of(step.program.call.as_text() or "") if step.program else []


def _speed(setup: StepSetup, target: Target, memory: StepMemory, collectives: list[Collective]) -> dict[str, Any]:
    """Returns FLOPs, collectives, ceilings, throughput at best and the prediction for other numbers of devices."""
    topology = setup.topology
    work, rates = work_of(setup.trace_step()), _rates_of(target, topology)
    size = _all_reduced_bytes(setup, collectives)
    large = [each for each in collectives if each.bytes > 2**20]
    overlaps = bool(large) and all(each.overlaps for each in large)
    state = memory.parameters + memory.optimizer + memory.ema + memory.sync_state + memory.gradients
    timed = step_time(rates, work, state, size, topology.num_devices, overlaps)
    tokens = setup.shape.global_batch_size * setup.config.data.length
    return {
        "flops_per_step": work.flops * topology.num_devices,
        "model_flops_per_step": setup.flops_per_step,
        "collectives": [
            {
                "kind": each.kind,
                "count": each.count,
                "bytes": each.bytes,
                "async": each.is_async,
                "overlaps": each.overlaps,
            }
            for each in collectives
        ],
        "bytes_on_wire": setup.bytes_on_wire,
        "step_secs_estimate": timed.secs,
        "ceilings": dataclasses.asdict(timed) | {"limit": timed.limit},
        "rates": dataclasses.asdict(rates),
        "tokens_per_sec": tokens / timed.secs,
        "mfu": setup.flops_per_step / topology.num_devices / rates.flops / timed.secs,
        "scaling": scaling(rates, timed, size),
    }


def _rates_of(target: Target, topology: Topology) -> Rates:
    """Returns the rates of a target's devices: published, or measured if nothing is published of them."""
    accelerator = target.accelerator or published(topology.kind)
    return published_rates(accelerator) if accelerator else measured_rates(topology)


def _all_reduced_bytes(setup: StepSetup, collectives: list[Collective]) -> float:
    """Returns the bytes of an all-reduce with which a device sends as much as in a step."""
    sent, count = setup.bytes_on_wire, setup.topology.num_devices
    if count == 1:
        return 4.0 * num_parameters(setup.model.config)
    if sent is None:
        return float(sum(each.bytes for each in collectives))
    return sent * count / (2 * (count - 1))
