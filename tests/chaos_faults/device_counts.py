"""A run that goes on with other numbers of devices and processes."""

from collections.abc import Iterator

from tiny_runs import metrics_lines

from chaos_faults.workshop import Row, Workshop, expect

STEPS = 10
"""Of each part."""

DEVICES = (8, 4, 2, 1)
TOLERANCE = 1e-4
"""Relative, of the loss of every step."""


def device_counts(workshop: Workshop) -> Iterator[Row]:
    """The same rows in every batch, and losses within rounding of a run on 8 devices throughout."""
    workdir, unbroken = workshop.directory / "moving", workshop.directory / "staying"
    for part, num_devices in enumerate(DEVICES, 1):
        said = workshop.finish(workdir, f"--cpu_devices={num_devices}", f"--config.total_steps={part * STEPS}")
        resumed = f"resuming from checkpoint {(part - 1) * STEPS} of {part * STEPS} steps"
        expect(part == 1 or resumed in said, said)
    last = (len(DEVICES) + 1) * STEPS
    runs = workshop.start_two(workdir, "--cpu_devices=2", f"--config.total_steps={last}")
    codes = [run.code() for run in runs]
    expect(codes == [0, 0], f"two processes ended with {codes}:\n" + "\n".join(run.said() for run in runs))
    workshop.finish(unbroken, "--cpu_devices=8", f"--config.total_steps={last}")

    lines, expected = metrics_lines(workdir), metrics_lines(unbroken)
    expect([line["step"] for line in lines] == list(range(1, last + 1)), "steps are missing or twice in metrics.jsonl")
    worst = 0.0
    for line, wanted in zip(lines, expected, strict=True):
        expect(line["data/batch_hash"] == wanted["data/batch_hash"], f"another batch at step {line['step']}")
        worst = max(worst, abs(line["train/loss"] / wanted["train/loss"] - 1.0))
    expect(worst <= TOLERANCE, f"losses differ by up to {worst:.1e} of their size")
    yield Row(
        "another number of devices",
        f"{', '.join(map(str, DEVICES))} devices, then 2 processes of 2, {STEPS} steps each",
        "1",
        f"the same batches, losses within {worst:.1e} of the unbroken run's",
    )
