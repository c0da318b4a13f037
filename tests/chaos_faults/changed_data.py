"""The data file is rewritten between scan and tokenisation, and put back afterwards."""

from collections.abc import Iterator

import tiny_runs

from chaos_faults.workshop import Row, Workshop, expect, expect_same_end

OPTIONS = ["--cpu_devices=2", "--config.total_steps=12"]


def changed_data(workshop: Workshop) -> Iterator[Row]:
    """The start is refused and keeps nothing; the next one trains on the right data."""
    text = workshop.directory / "text.txt"
    right = text.read_bytes()
    workdir, undisturbed = workshop.directory / "changed", workshop.directory / "unchanged"
    cache = f"--config.data.cache_dir={workshop.directory / 'cache'}"
    run = workshop.start(workdir, *OPTIONS, cache, faults=("change_data_after_scan",))
    code, said = run.code(), run.said()
    expect(
        code == 2 and "changed while it was being prepared" in said and "Traceback" not in said,
        f"exit code {code}; it said:\n{said}",
    )
    expect(text.read_bytes() != right, "the fault did not rewrite the data")
    text.write_bytes(right)
    workshop.finish(workdir, *OPTIONS, cache)
    workshop.finish(undisturbed, *OPTIONS)
    expect_same_end(workdir, undisturbed, 12)
    expect(len(tiny_runs.metrics_lines(workdir)) == 12, "not every step was logged")
    yield Row(
        "data changed during preparation",
        "the file rewritten between scan and tokenisation, and put back after the start",
        "1",
        "exit 2 and a sentence; the same command ends bitwise as with undisturbed data",
    )
