"""Memory benchmark (`jaxdp bench --memory`): bytes of a device by kind, for every strategy that can serve the configuration."""

import dataclasses
from typing import Any

import jax

from jaxdp.errors import UserError
from jaxdp.parallel.spmd import Program
from jaxdp.run_config import RunConfig
from jaxdp.training.device_memory import step_memory
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

COMPARED = ("pmean", "zero1", "zero3")
"""Strategies with the same loss curve, which are compared."""

KINDS = ("parameters", "optimizer", "ema", "sync_state", "gradients", "activations", "batch", "total", "used")
"""Kinds of memory in a result, in the order in which they are shown."""


def measure_memory(config: RunConfig) -> list[dict[str, Any]]:
    """Compiles the train step under each strategy, runs it, and divides the memory of one device by kind.

    Returns:
        For the strategy of the configuration and each of `COMPARED`: `sync`, `devices`, `device_kind`, and bytes of a
        device: `parameters`, `optimizer`, `ema` and `sync_state` as they are stored; `gradients`, float32, in the
        layout in which a device sums them; `activations`: all other temporaries of the step, gathered parameters and
        buffers of collectives included; `batch`; `total`: peak of the compiled step. `used`: peak that the device
        reports after two steps, None where it reports none. The peak is of the process, so it is exact for the first
        strategy and an upper bound for the others. A strategy that refuses the configuration has `refused` instead.
    """
    prepared = prepare_run(config)
    names = dict.fromkeys((config.parallel.sync, *COMPARED))
    results = []
    for name in names:
        try:
            setup = TrainingSetup(
                dataclasses.replace(prepared, config=prepared.config.replaced(parallel={"sync": name}))
            )
        except UserError as error:
            results.append({"sync": name, "refused": str(error)})
            continue
        results.append({"sync": name} | _of_step(setup))
    return results


def _of_step(setup: TrainingSetup) -> dict[str, Any]:
    program = setup.compile_step()
    memory = dataclasses.asdict(step_memory(setup, program))
    memory["batch"] = memory.pop("buffers")
    memory["activations"] += memory.pop("logits")
    return {
        "devices": setup.topology.num_devices,
        "device_kind": setup.topology.kind,
        **memory,
        "used": _peak_after_steps(setup, program),
    }


def _peak_after_steps(setup: TrainingSetup, program: Program) -> int | None:
    """Returns the peak of the memory in use that this process's first device reports after two steps; None: unknown."""
    device = setup.topology.devices[setup.topology.process_index * setup.topology.num_local_devices]
    if not (device.memory_stats() or {}).get("peak_bytes_in_use"):
        return None
    state, control_word, batches = setup.fresh_state(), setup.control_word_maker()(0, 0), setup.loader.batches(0)
    for _ in range(2):
        state, _ = program(state, setup.place(next(batches))[0], control_word)
    jax.block_until_ready(state)
    return int((device.memory_stats() or {})["peak_bytes_in_use"])
