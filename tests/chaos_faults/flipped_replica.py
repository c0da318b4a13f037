"""One flipped bit in one device's copy of one parameter."""

import re
from collections.abc import Iterator

from faults import KERNEL

from chaos_faults.workshop import Row, Workshop, expect, expect_same_end, expect_whole, newest

NUM_DEVICES, TOTAL_STEPS, SAVE_EVERY, CHECK_EVERY = 4, 30, 5, 2

OPTIONS = [
    f"--cpu_devices={NUM_DEVICES}", f"--config.total_steps={TOTAL_STEPS}",
    f"--config.checkpoint.every_steps={SAVE_EVERY}", f"--config.parallel.check_every_steps={CHECK_EVERY}",
]  # fmt: skip


def flipped_replica(workshop: Workshop, times: int) -> Iterator[Row]:
    """The next comparison, at a check or before a save, names device and leaf; the run then goes on."""
    draws, undisturbed = workshop.draws("flipped replica"), workshop.directory / "not_flipped"
    workshop.finish(undisturbed, *OPTIONS)
    for turn in range(times):
        step, device = draws.randrange(SAVE_EVERY + 1, TOTAL_STEPS - 1), draws.randrange(NUM_DEVICES)
        workdir = workshop.directory / f"flipped_replica_{turn}"
        run = workshop.start(workdir, *OPTIONS, faults=(f"flip_after={step},{device}",))
        code, said = run.code(), run.said()
        noticed = next(later for later in range(step, step + 10) if later % CHECK_EVERY == 0 or later % SAVE_EVERY == 0)
        sentence = (
            rf"the devices no longer hold the same state after step {noticed}: device {device} \(process 0\) "
            rf"differs from the other {NUM_DEVICES - 1} in [^;]*{KERNEL}"
        )
        expect(
            code == 70 and re.search(sentence, said) is not None,
            f"flipped after step {step} on {device}; exit {code}:\n{said}",
        )
        expect_whole(workdir)
        good = newest(workdir)
        expect(good == (step - 1) // SAVE_EVERY * SAVE_EVERY, f"flipped after step {step}, newest checkpoint {good}")
        again = workshop.finish(workdir, *OPTIONS)
        expect(f"resuming from checkpoint {good} of {TOTAL_STEPS} steps" in again, again)
        expect_same_end(workdir, undisturbed, TOTAL_STEPS)
    yield Row(
        "flipped bit in one device's parameter",
        f"after a random step, in a random one of {NUM_DEVICES} devices",
        str(times),
        "found at the next check, device and leaf named, exit 70, nothing of it saved; the same command ends bitwise as undisturbed",
    )
