"""SIGTERM at instants spread from the start of the process to its first steps, of one run that is started again and again."""

import signal
import time
from collections import Counter
from collections.abc import Iterator

from chaos_faults.workshop import (
    ENDLESS,
    Row,
    Workshop,
    expect,
    expect_same_end,
    expect_whole,
    newest,
    size_of_metrics,
    wait_for,
)

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=20"]
MORE_STEPS = 15

KILLED = -signal.SIGTERM
"""How a process ends before its interpreter runs jaxdp; a shell says 143."""


def interrupted_start(workshop: Workshop, num_instants: int) -> Iterator[Row]:
    """Exit 75 at every instant but those of the interpreter's own start; nothing is lost and the end is bitwise."""
    workdir, codes = workshop.directory / "interrupted", Counter()
    span = _secs_to_first_step(workshop)
    for number in range(num_instants):
        before = newest(workdir)
        run = workshop.start(workdir, ENDLESS, *OPTIONS)
        time.sleep(span * (number + 0.5) / num_instants)
        run.send(signal.SIGTERM)
        code, said = run.code(), run.said()
        codes[code] += 1
        where = f"{number} of {num_instants} instants in {span:.1f} s: exit code {code}; it said:\n{said}"
        expect(code == 75 or (code == KILLED and not said), where)
        expect("Traceback" not in said and "internal error" not in said, where)
        expect((newest(workdir) or 0) >= (before or 0), where)
        expect_whole(workdir)
    expect(codes[KILLED] <= num_instants // 10 + 1, f"{codes[KILLED]} of {num_instants} ended before jaxdp ran")
    last = (newest(workdir) or 0) + MORE_STEPS
    workshop.finish(workdir, *OPTIONS, f"--config.total_steps={last}")
    undisturbed = workshop.directory / "not_interrupted"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={last}", "--config.checkpoint.every_steps=0")
    expect_same_end(workdir, undisturbed, last)
    yield Row(
        "SIGTERM at a start",
        f"spread over the {span:.1f} s from the start of the process to its first step",
        str(num_instants),
        f"exit 75 each time ({codes[KILLED]} times 143, before the interpreter ran jaxdp), no traceback; "
        f"{last} steps end bitwise as undisturbed",
    )


def _secs_to_first_step(workshop: Workshop) -> float:
    """Time from the start of a process to its first step, with everything compiled before."""
    for name in ("compiling", "measured"):
        workdir, start = workshop.directory / name, time.monotonic()
        run = workshop.start(workdir, ENDLESS, *OPTIONS)
        wait_for(lambda workdir=workdir: size_of_metrics(workdir) > 0, "a step is done", run)
        span = time.monotonic() - start
        run.kill()
    return span
