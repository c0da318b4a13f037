"""Terminal output on stderr: status messages, tables and the progress line of a run.

stdout carries only results.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, cast

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxdp.redact import mask_secrets, redact
from jaxdp.streams import SurvivingStream

REFRESH_SECS = 0.2
"""Minimum interval between redraws of the progress line: drawing takes a core from the computation."""

MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 24
"""Width of the progress bar in columns."""

PLAIN_SECS = 5.0
"""Minimum interval between plain lines if stderr is not a terminal."""

logging.getLogger("jaxdp").addHandler(logging.NullHandler())  # without a log file, logging prints nothing
# Rich uses the methods of a text file that SurvivingStream has.
console = Console(file=cast(IO[str], SurvivingStream(lambda: sys.stderr)), highlight=False)


def print_status(sentence: str) -> None:
    """Prints and logs a message, without secrets and control characters."""
    sentence = redact(sentence)
    console.print(sentence, markup=False, soft_wrap=True)
    logging.getLogger("jaxdp").info(sentence)


def log_values(name: str, values: Mapping[str, float]) -> None:
    """Writes values to the log alone, as a JSON object after their name."""
    logging.getLogger("jaxdp").info("%s: %s", name, json.dumps(dict(values)))


def show_table(rows: Sequence[tuple[str, str]]) -> None:
    """Prints and logs names and values in two columns."""
    rows = [(redact(name), redact(value)) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text(f"{name:<{width}}  ", "cyan").append(value, "default"), soft_wrap=True)
        logging.getLogger("jaxdp").info("%s: %s", name, value)


def show_cut(rows: Sequence[tuple[str, str]]) -> None:
    """Prints and logs names and texts in two columns, each text cut to one line of the terminal.

    Texts are untrusted: characters that are not printable, which could move the cursor,
    become a replacement mark, and consecutive whitespace becomes one blank.
    """
    rows = [(mask_secrets(name), mask_secrets(value)) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        printable = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(value.split()))
        line = Text(f"{name:<{width}}  {printable}")
        line.truncate(console.width, overflow="ellipsis")
        print_status(line.plain)


def quantity(number: float, unit: str = "") -> str:
    """Formats a number to three digits with a decimal prefix: `1.24G`, `831k`, with a unit `1.24 GB`."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:  # numbers that three digits round up to the size
            return f"{number / size:.3g} {prefix}{unit}" if unit else f"{number / size:.3g}{prefix}"
    return f"{number:.3g} {unit}".rstrip()


def memory_size(num_bytes: float) -> str:
    """Formats bytes with a binary prefix: `1.5 GiB`."""
    for size, prefix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= size - size / 20480:  # numbers that one decimal rounds up to the size
            return f"{num_bytes / size:.1f} {prefix}"
    return f"{num_bytes:.0f} B"


def duration(secs: float) -> str:
    """Formats a duration: `1:02:03`, or `2:03` below an hour."""
    minutes, secs = divmod(round(max(secs, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


class ProgressLine:
    """Progress line of a run, updated in a terminal and printed as plain lines elsewhere; a `MetricsWriter`."""

    def __init__(self, first_step: int, total_steps: int, clock: Callable[[], float] = time.monotonic):
        self._total_steps = total_steps
        self._clock = clock
        self._first_step, self._start = first_step, clock()
        self._shown_at = -float("inf")
        self._bar = ProgressBar(total=total_steps, completed=first_step)
        # Redrawn without a refresh thread, which would take a core from the computation.
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "ProgressLine":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Redraws the line for training metrics; prints all others above it."""
        if "train/loss" not in values:
            print_status(f"step {step:>{len(str(self._total_steps))}}  {_described(values)}")
            return
        last = step >= self._total_steps
        interval = REFRESH_SECS if self._live else PLAIN_SECS
        if not last and self._clock() - self._shown_at < interval:
            return
        self._shown_at = self._clock()
        text = self._text(step, values)
        if self._live:
            self._live.update(self._line(step, text), refresh=True)
        else:
            print_status(text)

    def _line(self, step: int, text: str) -> Table:
        """Lays out bar and text in one line; a narrow terminal has no bar, then fewer spaces."""
        line = Table.grid(padding=(0, 1))
        room = console.width - len(text) - 1
        if room < MIN_BAR_WIDTH:
            line.add_row(Text(text if room >= 0 else text.replace("  ", " ")))
        else:
            self._bar.width = min(room, MAX_BAR_WIDTH)
            self._bar.update(completed=step)
            line.add_row(self._bar, Text(text))
        return line

    def close(self) -> None:
        """Does nothing: the line ends with the context."""

    def _text(self, step: int, values: Mapping[str, float | str]) -> str:
        parts = [
            f"step {step:>{len(str(self._total_steps))}}/{self._total_steps}",
            f"loss {values['train/loss']:.4f}",
            f"lr {values['train/learning_rate']:.2e}",
            f"grad {values['train/grad_norm']:.2f}",
            f"{quantity(float(values['perf/tokens_per_sec']))} tok/s",
        ]
        if "perf/mfu" in values:
            parts.append(f"mfu {values['perf/mfu']:.1%}")
        parts.append(f"wait {values['perf/data_wait']:.1%}")
        if values.get("train/skipped"):
            parts.append(f"skipped {values['train/skipped']}")
        remaining = (self._total_steps - step) * (self._clock() - self._start)
        parts.append(f"eta {duration(remaining / max(step - self._first_step, 1))}")
        return "  ".join(parts)


def _described(values: Mapping[str, float | str]) -> str:
    """Formats metrics with their group first: `eval loss 1.8860  perplexity 6.5900`."""
    names = [name.split("/", 1) for name in values]
    return "  ".join(
        f"{group + ' ' if index == 0 else ''}{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for index, ((group, name), value) in enumerate(zip(names, values.values(), strict=True))
    )


@contextlib.contextmanager
def progress(label: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int], None]]:
    """Shows progress: a bar in a terminal, elsewhere a plain line every PLAIN_SECS.

    Args:
        label: Name of the work, e.g. "tokenizing".
        total: Amount of work.
        clock: Clock in seconds; replaced in tests.

    Yields:
        Function that adds an amount of finished work.
    """
    label = redact(label)
    start = shown_at = clock()
    done = 0
    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False) if console.is_terminal else None
    task = bar.add_task(escape(label), total=total) if bar else None

    def advance(amount: int) -> None:
        nonlocal done, shown_at
        done += amount
        now = clock()
        if now - shown_at < (REFRESH_SECS if bar else PLAIN_SECS):
            return
        shown_at = now
        if bar and task is not None:
            bar.update(task, completed=done, refresh=True)
        else:
            remaining = (total - done) * (now - start) / max(done, 1)
            print_status(f"{label}  {done / max(total, 1):.0%}  eta {duration(remaining)}")

    with bar or contextlib.nullcontext():
        yield advance
