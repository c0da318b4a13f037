"""A folder in which tiny runs are started as processes, and what is asked about them."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tiny_runs
from tiny_processes import free_address

from chaos_faults.forks import Forked, Forks
from jaxdp.checkpoint.manifest import committed_steps, find_damage

STEADY = ["--config.optim.schedule=constant", "--config.eval.every_steps=0", "--config.microbatch_size=2"]
"""A compiled step that does not depend on the run's length, and that 1 to 8 devices can make."""

ENDLESS = "--config.total_steps=1000000"
"""Still going when the fault comes."""

PATIENCE_SECS = 180.0
"""How long anything may take on a busy machine before it counts as hanging."""


class Broken(AssertionError):
    """A promise was not kept."""


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    how: str
    times: str
    outcome: str


def expect(condition: bool, sentence: str) -> None:
    """Raises Broken with the sentence unless the condition holds."""
    if not condition:
        raise Broken(sentence)


class Run:
    """A process that trains."""

    def __init__(self, process: subprocess.Popen | Forked, log: Path):
        self.process, self._log = process, log

    def said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.is_file() else ""

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process."""
        self.process.kill()
        self.process.wait()

    def code(self, secs: float = PATIENCE_SECS) -> int:
        """Waits for its end; returns the exit code."""
        try:
            return self.process.wait(secs)
        except subprocess.TimeoutExpired:
            raise Broken(f"still running after {secs:g} s; it said:\n{self.said()}") from None


class Workshop:
    """Starts runs of one tiny configuration; a context manager that leaves no process behind."""

    def __init__(self, directory: Path, seed: int):
        self.directory, self._seed = directory, seed
        self._runs: list[Run] = []
        self._numbers = itertools.count()
        self.forks: Forks | None = None
        directory.mkdir(parents=True, exist_ok=True)
        text, self.config = directory / "text.txt", directory / "config.py"
        tiny_runs.write_text(text)
        self.config.write_text(tiny_runs.CONFIG.format(text=str(text)))
        # All faults share what is compiled; without optimisation that takes half the time.
        self.environment = tiny_runs.environment(
            directory.parent / "compiled", JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_backend_optimization_level=0"
        )

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(self, *_) -> None:
        for run in self._runs:
            if run.process.poll() is None:
                run.kill()

    def draws(self, name: str) -> random.Random:
        """Random numbers of the seed, the same whichever other faults are tried."""
        return random.Random(f"{self._seed} {name}")

    def start(
        self,
        workdir: Path,
        *options: str,
        faults: tuple[str, ...] = (),
        code: Path | None = None,
        within: tuple[str, ...] = (),
    ) -> Run:
        """`jaxdp train`, with faults of `faults.py` if any are named, of another copy of the code, within another command."""
        log = self.directory / f"stderr_{next(self._numbers)}.txt"
        if self.forks and not code and not within:
            return self.adopt(self.forks.start(self.command(workdir, *options)[3:], faults, log), log)
        with open(log, "w") as stderr:
            process = subprocess.Popen(
                [*within, *self.command(workdir, *options, faults=faults)],
                env=self.environment | ({"PYTHONPATH": str(code)} if code else {}),
                cwd=code,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        return self.adopt(process, log)

    def command(self, workdir: Path, *options: str, faults: tuple[str, ...] = ()) -> list[str]:
        """The command of `start`."""
        program = [str(Path(tiny_runs.__file__).with_name("faults.py")), *faults, "--"] if faults else ["-m", "jaxdp"]
        return [sys.executable, *program, "train", f"--config={self.config}", f"--workdir={workdir}", *STEADY, *options]

    def adopt(self, process: subprocess.Popen | Forked, log: Path) -> Run:
        """Takes care of a process that was started elsewhere and says what it says to `log`."""
        run = Run(process, log)
        self._runs.append(run)
        return run

    def start_two(self, workdir: Path, *options: str) -> list[Run]:
        """The same as two processes on loopback."""
        address = free_address()
        return [self.start(workdir, *options, *as_process(index, 2, address)) for index in range(2)]

    def finish(self, workdir: Path, *options: str) -> str:
        """Trains to the end; returns what was said."""
        run = self.start(workdir, *options)
        code = run.code()
        expect(code == 0, f"exit code {code} where the run should have finished; it said:\n{run.said()}")
        return run.said()


def as_process(index: int, num_processes: int, address: str) -> list[str]:
    """The options of one of several processes."""
    return [f"--coordinator={address}", f"--num_processes={num_processes}", f"--process_index={index}"]


def wait_for(condition: Callable[[], bool], what: str, *runs: Run, secs: float = PATIENCE_SECS) -> None:
    """Waits until something is true while all these runs are alive."""
    end = time.monotonic() + secs
    while not condition():
        for run in runs:
            code = run.process.poll()
            expect(code is None, f"ended with code {code} before {what}; it said:\n{run.said()}")
        expect(time.monotonic() < end, f"no {what} within {secs:g} s")
        time.sleep(0.002)


def size_of_metrics(workdir: Path) -> int:
    try:
        return os.stat(workdir / "metrics.jsonl").st_size
    except FileNotFoundError:
        return 0


def newest(workdir: Path) -> int | None:
    """The newest step that has a manifest."""
    return max(committed_steps(workdir / "checkpoints"), default=None)


def expect_whole(workdir: Path) -> None:
    """Every checkpoint that has a manifest is what was written."""
    checkpoints = workdir / "checkpoints"
    for step in committed_steps(checkpoints):
        problems = find_damage(checkpoints / str(step))
        expect(not problems, f"checkpoint {step} counts but is damaged: {problems}")


def expect_same_end(workdir: Path, undisturbed: Path, step: int) -> None:
    """Bitwise the same state after this step, and the same numbers of every step before, each once."""
    tiny_runs.assert_same_bits(tiny_runs.saved_arrays(workdir, step), tiny_runs.saved_arrays(undisturbed, step))
    lines, expected = tiny_runs.metrics_lines(workdir), tiny_runs.metrics_lines(undisturbed)
    for name in ("step", "train/loss", "train/grad_norm", "data/batch_hash"):
        for line, wanted in zip(lines, expected, strict=True):
            expect(
                line[name] == wanted[name], f"{name} of step {wanted['step']}: {line[name]}, expected {wanted[name]}"
            )


def name_of(number: int) -> str:
    return signal.Signals(-number).name if number < 0 else str(number)
