"""Variants of GPT-2 124M, one line each: throughput with other settings, against the configuration as it is."""

import dataclasses

import jax

from jaxdp.bench.step import measure_program
from jaxdp.report.terminal import memory_size

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
    """Measures the variants in order of importance, with a microbatch size that fits with plain attention too."""
    first, longest = None, 0.0
    for variant in VARIANTS:
        if context.remaining_secs < 1.5 * longest:
            context.report(variant.name, "skipped", "no time left")
            continue
        before = context.remaining_secs
        rate = _measure(context, variant, first)
        first = first or rate
        longest = max(longest, before - context.remaining_secs)


def _measure(context: Context, variant: Variant, first: float | None) -> float | None:
    """Measures one variant; returns its tokens/s, or None if it does not fit or fails."""
    size = SIZES[context.size]
    rows = size.variant_rows
    overrides = [override.format(plain_vocab_size=size.plain_vocab_size) for override in variant.overrides]
    if variant.microbatches > 1:
        overrides.append(f"global_batch_size={variant.microbatches * rows * jax.device_count()}")
    setup = gpt_setup(context, "124M", rows, *overrides)
    update = setup.update if variant.skip_by is None else dataclasses.replace(setup.update, skip_by=variant.skip_by)
    program = setup.compile_step(update)
    name = f"{variant.name}, {rows} rows"
    if not fits(program.device_bytes):
        context.report(name, "does not fit", f"planned {memory_size(program.device_bytes)}")
        return None
    try:
        result = measure_program(setup, program, max(size.num_steps // variant.microbatches, 3), num_saves=0)
    except jax.errors.JaxRuntimeError as error:  # the other variants are still measured
        context.report(name, "failed", str(error)[:300])
        return None
    compared = {} if first is None else {"first": first}
    report_speed(context, name, setup, result, planned=program.device_bytes, **compared)
    return result["tokens_per_sec"]
