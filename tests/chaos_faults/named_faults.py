"""Faults of one of two or three processes: the others end within a bound and name the process at fault."""

import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tiny_processes import free_address

import jaxdp
from chaos_faults.forks import Forks
from chaos_faults.networks import ADDRESSES, Network, can_be_made
from chaos_faults.workshop import ENDLESS, Row, Run, Workshop, as_process, expect, size_of_metrics, wait_for

WATCHDOG_SECS = 15
END_SECS = 300.0
"""Time in which every survivor must have ended: the limit of the watchdog, the inquiry, and a very busy machine."""

ARRIVAL_SECS = 30
STOP_SECS = 0.1
"""Half of the period in which a process is stopped and continued."""

OPTIONS = [
    ENDLESS, "--cpu_devices=1", "--config.global_batch_size=12", "--config.checkpoint.every_steps=100", "--config.log.every_steps=20",
    f"--config.parallel.watchdog_secs={WATCHDOG_SECS}", "--config.parallel.check_every_steps=20",
]  # fmt: skip

OTHER_VALUES = (
    "--config.seed=7", "--config.optim.learning_rate=0.5", "--config.model.embed_dim=32", "--config.data.length=8",
    "--config.global_batch_size=24", "--config.optim.name=lion",
)  # fmt: skip

OTHER_CODE = ("step.py", "optim/update.py", "model/block.py", "tasks/task.py")


class Case(NamedTuple):
    """One fault.

    Attributes:
        workshop: Starts the processes.
        workdir: Work directory of the run.
        victim: Index of the process at fault.
        num_processes: Number of processes.
        draws: Random numbers.
        started: Its processes.
    """

    workshop: Workshop
    workdir: Path
    victim: int
    num_processes: int
    draws: random.Random
    started: list[Run]

    def start(self, **of_victim) -> list[Run]:
        """Starts all processes; `options` of the victim come last, the rest is for `Workshop.start`."""
        address = free_address()
        return [self.start_one(index, address, **(of_victim if index == self.victim else {})) for index in self.all]

    def start_one(self, index: int, address: str, options: Sequence[str] = (), **others) -> Run:
        place = as_process(index, self.num_processes, address)
        self.started.append(self.workshop.start(self.workdir, *OPTIONS, *place, *options, **others))
        return self.started[-1]

    @property
    def all(self) -> range:
        return range(self.num_processes)

    def survivors(self, runs: list[Run]) -> list[Run]:
        return [run for index, run in enumerate(runs) if index != self.victim]

    def wait_until_it_trains(self, runs: list[Run]) -> None:
        """Waits for some lines of metrics, and then for a random time."""
        wait_for(lambda: size_of_metrics(self.workdir) > 0, "a line of metrics", *runs, secs=END_SECS)
        time.sleep(self.draws.uniform(0.0, 1.5))

    def expect_named(self, runs: list[Run], pattern: str, code: int = 70) -> None:
        """All survivors end with the code, and each names the process at fault."""
        end = time.monotonic() + END_SECS
        named = re.compile(pattern.format(victim=self.victim))
        for run in self.survivors(runs):
            found = run.code(max(end - time.monotonic(), 1.0))
            expect(found == code, f"a survivor ended with {found}, expected {code}; it said:\n{run.said()}")
            expect(named.search(run.said()) is not None, f"no {named.pattern!r} in what a survivor said:\n{run.said()}")


def killed(case: Case) -> None:
    """SIGKILL while it trains."""
    runs = case.start()
    case.wait_until_it_trains(runs)
    runs[case.victim].kill()
    case.expect_named(runs, r"process {victim} on \S+ is gone")


def stopped(case: Case) -> None:
    """SIGSTOP for ever."""
    runs = case.start()
    case.wait_until_it_trains(runs)
    runs[case.victim].send(signal.SIGSTOP)
    case.expect_named(runs, r"process {victim} on \S+ does not respond")


def stuck_in_a_hook(case: Case) -> None:
    """Its main thread hangs on the host."""
    _stuck(case, "hang_before=60", "faults.py")


def stuck_reading(case: Case) -> None:
    """Its data do not come."""
    _stuck(case, "hang_reading=60", "prefetch.py")


def _stuck(case: Case, fault: str, place: str) -> None:
    runs = case.start(faults=(fault,))
    case.wait_until_it_trains(runs)
    case.expect_named(
        runs, rf"process {{victim}} on \S+ holds up the others: no progress while training for \d+ s, at \S*{place}"
    )
    runs[case.victim].code()
    log = case.workdir / "logs" / f"process_{case.victim}.log"
    expect("in hang_for_ever" in log.read_text(errors="replace"), f"no stacks in {log}")


def stopped_half_of_the_time(case: Case) -> None:
    """SIGSTOP and SIGCONT in turn; the run goes on."""
    runs = case.start()
    case.wait_until_it_trains(runs)
    done = threading.Event()

    def alternate() -> None:
        while not done.is_set():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                runs[case.victim].send(number)
                done.wait(STOP_SECS)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        _expect_slow(case, runs)
    finally:
        done.set()
        thread.join()
        runs[case.victim].send(signal.SIGCONT)


def slow_data(case: Case) -> None:
    """Every batch comes later by more than a step takes on a busy machine; the run goes on."""
    runs = case.start(faults=("slow_reading=300",))
    _expect_slow(case, runs)


def _expect_slow(case: Case, runs: list[Run]) -> None:
    """The warning names the victim while all go on; then one of the survivors is killed, as the run must end."""
    named = re.compile(rf"warning: process {case.victim} on \S+ is the slowest and costs \d+% of the step time")
    wait_for(
        lambda: named.search(runs[0].said()) is not None, f"warning about process {case.victim}", *runs, secs=END_SECS
    )


def wrong_data(case: Case) -> None:
    """It reads another file."""
    other = case.workshop.directory / "other.txt"
    other.write_text((case.workshop.directory / "text.txt").read_text()[:-50] + " and not that" * 4)
    _expect_difference(case, "data", options=[f"--config.data.path={other}"])


def wrong_config(case: Case) -> None:
    """One key of its configuration differs."""
    option = case.draws.choice(OTHER_VALUES)
    _expect_difference(case, option.partition("=")[0].removeprefix("--config."), options=[option])


def wrong_code(case: Case) -> None:
    """Its copy of jaxdp has another constant."""
    code = case.workdir.with_suffix(".code")
    shutil.copytree(Path(jaxdp.__file__).parent, code / "jaxdp", ignore=shutil.ignore_patterns("__pycache__"))
    with open(code / "jaxdp" / case.draws.choice(OTHER_CODE), "a") as file:
        file.write("\n_ANOTHER_VERSION = True\n")
    _expect_difference(case, "source of jaxdp", code=code)


def wrong_user_file(case: Case) -> None:
    """Its copy of the user's hook does something else."""
    copies = []
    for name, constant in (("one", 1), ("other", 2)):
        folder = case.workdir.with_suffix(f".{name}")
        folder.mkdir()
        (folder / "own_hook.py").write_text(_OWN_HOOK.format(constant=constant))
        shutil.copyfile(case.workshop.config, folder / "config.py")
        with open(folder / "config.py", "a") as file:
            file.write("\nimport own_hook\n")
        copies.append(f"--config={folder / 'config.py'}")
    address = free_address()
    runs = [case.start_one(index, address, [copies[index == case.victim]]) for index in case.all]
    _expect_all_refuse(case, runs, "source of own_hook.py")


_OWN_HOOK = """
import jaxdp


class Own(jaxdp.Hook):
    def on_dispatch(self, step, state):
        self.number = {constant}


jaxdp.register_hook("own", lambda info: Own())
"""


def _expect_difference(case: Case, what: str, **of_victim) -> None:
    _expect_all_refuse(case, case.start(**of_victim), what)


def _expect_all_refuse(case: Case, runs: list[Run], what: str) -> None:
    both = rf"{what}[^\n]*: .* in process 0 on .* in process \d+ on "
    who = r"Process {victim} on \S+ differs from the other \d, which agree" if case.num_processes > 2 else ""
    case.expect_named(runs, rf"(?s)do not agree:.*{both}.*{who}", code=2)


def no_network_at_start(case: Case) -> None:
    """Its address leads nowhere, or process 0 is not where the others look for it."""
    address, patience = free_address(), f"--config.parallel.init_timeout_secs={ARRIVAL_SECS}"
    nowhere = case.draws.choice(("192.0.2.1:1234", free_address()))
    runs = [
        case.start_one(index, nowhere if index == case.victim != 0 else address, [patience])
        for index in case.all
        if index != case.victim or case.victim != 0
    ]
    if case.victim == 0:
        runs.insert(0, runs[0])
        case.expect_named(runs, r"misses process {victim}")
        return
    case.expect_named(runs, r"process {victim} of \d did not come to")
    found = runs[case.victim].code()
    expect(found == 70 and "misses process 0" in runs[case.victim].said(), runs[case.victim].said())


def no_network_later(case: Case) -> None:
    """The cable between its machine and the others is pulled while it trains."""
    with Network() as network:
        address = f"{ADDRESSES[0]}:12345"
        runs = [
            case.start_one(index, address, within=network.within(int(index == case.victim)))
            if case.victim
            else case.start_one(index, address, within=network.within(int(index != 0)))
            for index in case.all
        ]
        case.wait_until_it_trains(runs)
        network.pull_the_cable()
        case.expect_named(runs, r"process {victim} on \S+ does not respond")


def diverged(case: Case) -> None:
    """A bit of its device's memory flips."""
    runs = case.start(faults=(f"flip_after=45,{case.victim}",))
    case.expect_named(runs, r"devices? \d+ \(process {victim}\) differs? from the other 2")


KINDS: dict[str, tuple[Callable[[Case], None], tuple[int, ...]]] = {
    "killed": (killed, (2, 3)),
    "stopped": (stopped, (2, 3)),
    "stuck in a hook": (stuck_in_a_hook, (2, 3)),
    "stuck reading": (stuck_reading, (2, 3)),
    "stopped half of the time": (stopped_half_of_the_time, (2, 3)),
    "slow data": (slow_data, (2, 3)),
    "wrong data": (wrong_data, (3,)),
    "wrong config": (wrong_config, (3,)),
    "wrong code": (wrong_code, (3,)),
    "wrong user file": (wrong_user_file, (3,)),
    "no network at the start": (no_network_at_start, (2, 3)),
    "no network later": (no_network_later, (2, 3)),
    "diverged": (diverged, (3,)),
}
"""By name: the fault, and the numbers of processes."""


def named_faults(workshop: Workshop, num_faults: int, kinds: Sequence[str] = (), at_once: int = 1) -> Iterator[Row]:
    """One run for each fault; a fault that is not named is told at the end."""
    names = [name for name in kinds or KINDS if name != "no network later" or can_be_made()]
    numbered = [(number, names[number % len(names)]) for number in range(num_faults)]
    with Forks(workshop.environment) as workshop.forks, ThreadPoolExecutor(at_once) as pool:
        for num_processes in {count for name in names for count in KINDS[name][1]}:
            _compile(workshop, num_processes)
        tries = list(pool.map(lambda each: _try(workshop, *each), numbered))
    for name in names:
        of_kind = [each for each in tries if each.name == name]
        if of_kind:
            secs = [each.secs for each in of_kind]
            yield Row(
                name,
                (KINDS[name][0].__doc__ or "").rstrip("."),
                str(len(of_kind)),
                f"{sum(each.is_named for each in of_kind)} named; {min(secs):.0f} to {max(secs):.0f} s with the start",
            )
    unnamed = [f"{each.number} ({each.name})" for each in tries if not each.is_named]
    expect(not unnamed, f"not named: {', '.join(unnamed)}")


def _compile(workshop: Workshop, num_processes: int) -> None:
    """Fills the compilation cache, as no limit of the faults allows for compiling on a busy machine."""
    case = Case(workshop, workshop.directory / f"compile_{num_processes}", 0, num_processes, random.Random(0), [])
    address = free_address()
    endings = ("--config.total_steps=2", "--config.parallel.watchdog_secs=0")
    runs = [case.start_one(index, address, endings) for index in case.all]
    codes = [run.code(END_SECS) for run in runs]
    expect(codes == [0] * num_processes, f"exit codes {codes}; it said:\n{runs[0].said()}")


class Try(NamedTuple):
    """Result of one fault."""

    number: int
    name: str
    is_named: bool
    secs: float


def _try(workshop: Workshop, number: int, name: str) -> Try:
    draws = workshop.draws(f"named fault {number}")
    fault, counts = KINDS[name]
    num_processes = draws.choice(counts)
    case = Case(
        workshop, workshop.directory / f"run_{number}", draws.randrange(num_processes), num_processes, draws, []
    )
    begin = time.monotonic()
    try:
        fault(case)
        outcome = "named"
    except Exception as error:
        outcome = f"NOT NAMED: {type(error).__name__}: {error}"
    finally:
        for run in case.started:
            run.kill()
    secs = time.monotonic() - begin
    told = f"{number}: {name}, process {case.victim} of {num_processes}, {secs:.0f} s: {outcome}"
    print(told, file=sys.stderr, flush=True)
    return Try(number, name, outcome == "named", secs)
