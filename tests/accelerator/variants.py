"""Variants of GPT-2 124M, one line each: throughput with other settings, against the configuration as it is."""

import dataclasses

import jax

from jaxdp.bench.step import measure_program
from jaxdp.report.terminal import memory_size

from .apart import run_apart
from .context import Context
from .speed import fits, report_speed
from .workload import SIZES, gpt_setup


@dataclasses.dataclass(frozen=True)
class Variant:
    """Setting to compare with the configuration as it is.

    Attributes:
        name: Name in the table.
        overrides: Keys of the configuration.
        skip_by: Implementation of skipped updates, see `UpdateConfig`; None: that of the platform.
        microbatches: Microbatches of one step; each has the rows of the others.
    """

    name: str
    overrides: tuple[str, ...] = ()
    skip_by: str | None = None
    microbatches: int = 1


VARIANTS = (
    Variant("as configured"),
    Variant("plain attention", ("model.attention=plain",)),
    Variant("updates never skipped", skip_by="never"),
    Variant("remat=dots", ("model.remat=dots",)),
    Variant("vocabulary not rounded up", ("model.vocab_size={plain_vocab_size}",)),
    Variant("4 microbatches a step", microbatches=4),
)


def measure(context: Context) -> None:
    """Measures the variants in order of importance, each in a process of its own, so that one may fail."""
    longest = 0.0
    for index, variant in enumerate(VARIANTS):
        before = context.remaining_secs
        if before < longest:
            context.report(variant.name, "skipped", "no time left")
            continue
        run_apart(context, _row_name(context, variant), ".variants:measure_variant", index)
        longest = max(longest, before - context.remaining_secs)


def _row_name(context: Context, variant: Variant) -> str:
    return f"{variant.name}, {SIZES[context.size].variant_rows} rows"


def measure_variant(context: Context, index: int) -> None:
    """Measures one variant, with a microbatch size that fits with plain attention too; entry point of a process."""
    variant, size = VARIANTS[index], SIZES[context.size]
    rows, name = size.variant_rows, _row_name(context, variant)
    overrides = [override.format(plain_vocab_size=size.plain_vocab_size) for override in variant.overrides]
    if variant.microbatches > 1:
        overrides.append(f"global_batch_size={variant.microbatches * rows * jax.device_count()}")
    context.progress(f"compiling {name}")
    setup = gpt_setup(context, "124M", rows, *overrides)
    update = setup.update if variant.skip_by is None else dataclasses.replace(setup.update, skip_by=variant.skip_by)
    program = setup.compile_step(update)
    if not fits(program.device_bytes):
        context.report(name, "does not fit", f"planned {memory_size(program.device_bytes)}")
        return
    context.progress(f"measuring {name}")
    result = measure_program(setup, program, max(size.num_steps // variant.microbatches, 3), num_saves=0)
    rates = [row["data"]["tokens_per_sec"] for row in context.earlier("variants") if "tokens_per_sec" in row["data"]]
    compared = {"first": rates[0]} if rates else {}
    report_speed(context, name, setup, result, planned=program.device_bytes, **compared)
