"""Profile of three steps of GPT-2 124M with its fastest microbatch size, reduced to the costliest operations."""

import dataclasses
import gzip
import shutil

import jax

from jaxdp.bench.device_time import grouped, read_device_time, source_names
from jaxdp.bench.operations import NUM_OPERATIONS, NUM_STEPS, trace_steps
from jaxdp.parallel.spmd import Program

from .context import Context
from .workload import fastest, gpt_setup

MAX_SOURCE = 90
"""Characters of an operation's source that the table shows, from its end."""


def measure(context: Context) -> None:
    """Traces some steps, reports the costliest operations, and keeps the trace and the compiled program as text."""
    setting = fastest(context, "124M")
    context.progress(f"compiling {setting.name}")
    setup = gpt_setup(context, "124M", setting.rows, *setting.overrides)
    program = setup.compile_step()
    context.progress(f"tracing {setting.name}")
    path = trace_steps(setup, program, context.scratch / "profile")
    shutil.copyfile(path, context.out / "profile.trace.json.gz")
    time, sources = read_device_time(path), source_names(_keep_program(context, program))
    if not time.operations:
        raise RuntimeError(f"the trace {path.name} names no operation of a device; it is in the output directory")
    total = sum(operation.secs for operation in time.operations)
    context.report(
        f"device time, {setting.name}", f"{1e3 * time.span_secs / NUM_STEPS:.2f} ms a step",
        f"busy {time.busy_secs / time.span_secs:.1%} of it, "
        f"{sum(operation.count for operation in time.operations) // NUM_STEPS} operations a step",
        total_secs=total, busy_secs=time.busy_secs, span_secs=time.span_secs,
    )  # fmt: skip
    for rank, operation in enumerate(grouped(time.operations, sources)[:NUM_OPERATIONS], 1):
        context.report(
            f"{rank}. {operation.name[:60]}",
            f"{1e3 * operation.secs / NUM_STEPS:.3f} ms a step, {operation.secs / total:.1%}",
            f"{operation.count / NUM_STEPS:g} times; {operation.kernel[:60]}; {operation.source[-MAX_SOURCE:]}",
            **dataclasses.asdict(operation),
        )


def _keep_program(context: Context, program: Program) -> str:
    """Writes the compiled program as text to the output directory and returns it; empty if the platform has no text."""
    try:
        hlo = program.call.as_text() or ""
    except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
        context.report("program as text", "not available", str(error)[:200])
        return ""
    with gzip.open(context.out / "profile.hlo.txt.gz", "wt", encoding="utf-8") as file:
        file.write(hlo)
    return hlo
