"""SIGKILL of either of two processes that share a bucket and no directory, at their puts and deletions."""

import contextlib
import re
import sys
from collections.abc import Iterator

from tiny_processes import free_address

from chaos_faults.kills import MORE_STEPS, REPORT_EVERY
from chaos_faults.object_storage import MAX_REQUESTS, SHORT_LEASE, URL, Server
from chaos_faults.sharded_kills import OPTIONS
from chaos_faults.workshop import ENDLESS, Row, Run, Workshop, as_process, expect, expect_same_end, name_of, newest

MAX_REQUESTS_OF = (MAX_REQUESTS, 12)
"""Largest number of the request at which process 0 or 1 is killed; process 1 has two for each checkpoint."""


def remote_processes(workshop: Workshop, num_kills: int) -> Iterator[Row]:
    """At the end the objects are bitwise the undisturbed run of two processes that share a directory."""
    with contextlib.closing(Server()) as server:
        yield _killed(workshop, server, num_kills)


def _killed(workshop: Workshop, server: Server, num_kills: int) -> Row:
    draws = workshop.draws("remote processes")
    workshop.environment |= server.environment
    before, in_uploads, of_process, resumed = 0, 0, [0, 0], set()
    for count in range(1, num_kills + 1):
        victim = draws.randrange(2)
        fault = f"die_at_request={draws.randint(1, MAX_REQUESTS_OF[victim])}"
        runs = _start_two(workshop, ENDLESS, faults={victim: (fault,)})
        codes = [run.code() for run in runs]
        expect(codes[victim] == -9 and codes[1 - victim] in (70, -6), f"exit codes {codes}:\n{_both(runs)}")
        of_process[victim] += 1
        whole, unfinished = server.steps()
        in_uploads += bool(unfinished)
        expect(max(whole, default=0) >= before, f"checkpoint {before} was whole and is gone; there are {sorted(whole)}")
        server.expect_whole()
        for run in runs:
            expect("damaged" not in run.said() and "Traceback" not in run.said(), _both(runs))
        steps = set(map(int, re.findall(r"resuming from checkpoint (\d+) of", _both(runs))))
        expect(len(steps) <= 1 and all(step >= before for step in steps), f"{before} is the newest:\n{_both(runs)}")
        resumed |= steps
        before = max(whole, default=0)
        if count % REPORT_EVERY == 0:
            print(f"{count} kills, {in_uploads} within uploads, step {before}", file=sys.stderr, flush=True)
    mirrors = (workshop.directory / "machine_0").glob("jaxdp/remote/*/run")
    last = max(before, *(newest(mirror) or 0 for mirror in mirrors)) + MORE_STEPS  # the mirror may be ahead
    ended, undisturbed = workshop.directory / "downloaded", workshop.directory / "not_killed"
    total = f"--config.total_steps={last}"
    _finish(_start_two(workshop, total))
    _finish(workshop.start_two(undisturbed, total, *OPTIONS, "--config.checkpoint.every_steps=0"))
    server.download(ended)
    expect_same_end(ended, undisturbed, last)
    expect(not server.steps()[1], "nothing unfinished is left")
    return Row(
        "SIGKILL of one of two processes in object storage, zero3",
        f"at random requests of process 0 {of_process[0]} times, of process 1 {of_process[1]} times; {in_uploads} within an upload or a "
        "deletion",
        str(num_kills),
        f"no checkpoint lost, both resumed from one whole checkpoint ({len(resumed)} different), {last} steps end bitwise as "
        "undisturbed in a shared directory",
    )


def _start_two(workshop: Workshop, *options: str, faults: dict[int, tuple[str, ...]] | None = None) -> list[Run]:
    """Both processes, each on a machine of its own, which is a cache directory; faults by process."""
    address, environment, runs = free_address(), workshop.environment, []
    for index in range(2):
        workshop.environment = environment | {"XDG_CACHE_HOME": str(workshop.directory / f"machine_{index}")}
        own = (SHORT_LEASE, *(faults or {}).get(index, ()))
        runs.append(workshop.start(URL, *options, *OPTIONS, *as_process(index, 2, address), faults=own))
    workshop.environment = environment
    return runs


def _finish(runs: list[Run]) -> None:
    codes = [run.code() for run in runs]
    expect(codes == [0, 0], f"exit codes {list(map(name_of, codes))}; they said:\n{_both(runs)}")


def _both(runs: list[Run]) -> str:
    return "\n".join(f"--- process {index}:\n{run.said()}" for index, run in enumerate(runs))
