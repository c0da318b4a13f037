"""Training speed and memory: GPT-2 124M and 350M with jaxdp's own step, by microbatch size and form of the layers."""

import dataclasses
from typing import Any

import jax

from jaxdp.bench.step import measure_program
from jaxdp.parallel.spmd import Program
from jaxdp.report.terminal import memory_size
from jaxdp.training.setup import TrainingSetup

from .apart import run_apart
from .context import Context
from .workload import SIZES, Candidate, fastest, gpt_setup, speeds

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def small(context: Context) -> None:
    """Measures GPT-2 124M."""
    measure_model(context, "124M")


def medium(context: Context) -> None:
    """Measures GPT-2 350M."""
    measure_model(context, "350M")


def measure_model(context: Context, model: str) -> None:
    """Measures every setting that fits, each in a process of its own, then the fastest again with checkpoint saves."""
    longest = 0.0
    for candidate in SIZES[context.size].candidates[model]:
        before, name = context.remaining_secs, f"{model}, {candidate.name}"
        if before < longest:
            context.report(name, "skipped", "no time left")
            continue
        run_apart(context, name, ".speed:measure_candidate", model, candidate.rows, candidate.scan_layers)
        longest = max(longest, before - context.remaining_secs)
    measured = speeds(context, model)
    if measured and context.remaining_secs > longest:
        best = fastest(context, model)
        rate = max(data["tokens_per_sec"] for data in measured)
        name = f"{model}, {best.name}, again"
        run_apart(context, name, ".speed:measure_again", model, best.rows, best.scan_layers, rate)


def measure_candidate(context: Context, model: str, rows: int, scan_layers: bool) -> None:
    """Measures one setting: speed, and planned against used memory; entry point of a process."""
    candidate = Candidate(rows, scan_layers)
    name = f"{model}, {candidate.name}"
    setup, program = _compiled(context, name, model, candidate)
    planned = memory_size(program.device_bytes)
    if not fits(program.device_bytes):
        context.report(name, "does not fit", f"planned {planned}")
        return
    try:
        result = measure_program(setup, program, SIZES[context.size].num_steps, num_saves=0)
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        context.report(name, "out of memory", f"planned {planned}")
        return
    report_speed(context, name, setup, result, **dataclasses.asdict(candidate))
    _report_memory(context, name, program)


def measure_again(context: Context, model: str, rows: int, scan_layers: bool, first: float) -> None:
    """Measures a setting a second time, with saves: the spread of two processes, and the save stall; entry point.

    Args:
        context: Context of the section.
        model: Name of the model.
        rows, scan_layers: Fields of the `Candidate`.
        first: Tokens/s of the first measurement.
    """
    candidate, size = Candidate(rows, scan_layers), SIZES[context.size]
    name = f"{model}, {candidate.name}, again"
    setup, program = _compiled(context, name, model, candidate)
    result = measure_program(setup, program, size.num_steps, size.num_saves)
    report_speed(context, name, setup, result, first=first, **dataclasses.asdict(candidate))
    first_ms, median_ms = result["save_block_ms"]
    context.report(
        f"{model}, one save",
        f"blocks the loop for {median_ms:.0f} ms",
        f"the first {first_ms:.0f} ms; complete after {result['save_total_ms'] / 1e3:.1f} s",
    )


def _compiled(context: Context, name: str, model: str, candidate: Candidate) -> tuple[TrainingSetup, Program]:
    """Returns the setup of a setting and its compiled step."""
    context.progress(f"preparing {name}")
    setup = gpt_setup(context, model, candidate.rows, *candidate.overrides)
    context.progress(f"compiling {name}")
    program = setup.compile_step()
    context.progress(f"measuring {name}, compiled in {program.compile_secs:.1f} s")
    return setup, program


def fits(num_bytes: float) -> bool:
    """Returns whether a program of this planned size is within the memory that XLA may use; True if that is not known."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit is None or num_bytes <= limit


def report_speed(context: Context, name: str, setup: TrainingSetup, result: dict[str, Any], **data: Any) -> None:
    """Reports the result of `measure_program`: throughput, MFU of both peaks, and the time of the parts of a step.

    Args:
        context: Context of the section.
        name: Name of the measurement.
        setup: Setup that was measured.
        result: Result of `measure_program`.
        **data: Further data of the row. `first` is the throughput of an earlier measurement of the section to compare with.
    """
    rate = result["tokens_per_sec"] / result["devices"]
    flops_per_token = setup.flops_per_step / (setup.config.global_batch_size * setup.config.data.length)
    notes = [
        *utilisation(context, rate * flops_per_token),
        f"{result['step_ms']:.2f} ms a step ({result['step_ms_p10_p90'][0]:.2f} to {result['step_ms_p10_p90'][1]:.2f})",
        f"data wait {result['data_wait']:.2%}",
        f"dispatch {result['dispatch_ms']:.2f} ms",
        f"compiled in {result['compile_secs']:.1f} s",
    ]
    if "first" in data:
        notes.append(f"{result['tokens_per_sec'] / data['first'] - 1:+.2%} against the first measurement")
    context.report(
        name, f"{rate:,.0f} tokens/s a device", ", ".join(notes),
        **result, **data, tokens_per_sec_device=rate, flops_per_token=flops_per_token,
    )  # fmt: skip


def utilisation(context: Context, flops: float) -> list[str]:
    """Describes a rate of model FLOP/s of one device as a share of the published peak and of the measured product."""
    peak = context.device().get("peak_flops")
    ceiling = next(
        (row["data"]["matmul_flops"] for row in context.earlier("environment") if "matmul_flops" in row["data"]), None
    )
    shares = []
    if peak:
        shares.append(f"MFU {flops / peak:.1%} of {peak / 1e12:.0f} TFLOP/s")
    if ceiling:
        shares.append(f"{flops / ceiling:.1%} of the measured matrix product")
    return shares


def _report_memory(context: Context, name: str, program: Program) -> None:
    """Compares the planned memory of a program with the peak of this process, which runs nothing larger."""
    stats = jax.local_devices()[0].memory_stats() or {}
    planned, used = program.device_bytes, stats.get("peak_bytes_in_use")
    if not used:
        context.report(f"{name}, memory", f"planned {memory_size(planned)}", "used: not reported by this platform")
        return
    context.report(
        f"{name}, memory", f"planned {memory_size(planned)}, used {memory_size(used)}",
        f"used {used / planned - 1:+.1%}, limit {memory_size(stats['bytes_limit'])}",
        planned=planned, used=used, **stats,
    )  # fmt: skip
