"""What a person sees: all on stderr, and plain lines not too often."""

import logging

import pytest

from jaxdp.report import terminal
from jaxdp.report.terminal import (
    ProgressLine,
    duration,
    memory_size,
    print_status,
    quantity,
    show_cut,
    show_table,
)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def training(loss=2.0, **more):
    return {
        "train/loss": loss, "train/learning_rate": 1e-3, "train/grad_norm": 0.5, "train/skipped": 0,
        "perf/tokens_per_sec": 12345.0, "perf/data_wait": 0.001, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "", "0"), (1, "", "1"), (999, "", "999"), (999.4, "", "999"), (999.6, "", "1k"), (1000, "", "1k"),
        (1234, "", "1.23k"), (12345, "", "12.3k"), (123456, "", "123k"), (999499, "", "999k"), (999999, "", "1M"),
        (1.24e9, "", "1.24G"), (3e12, "", "3T"), (4.5e15, "", "4.5P"), (0.00123, "", "0.00123"), (-2500, "", "-2.5k"),
        (5, "FLOP", "5 FLOP"), (11.9e6, "FLOP", "11.9 MFLOP"), (9.89e14, "FLOP/s", "989 TFLOP/s"),
    ],
)  # fmt: skip
def test_quantity(number, unit, text):
    assert quantity(number, unit) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20 - 1, "1.0 MiB"), (2**20, "1.0 MiB"),
        (1047527, "1023.0 KiB"), (5 * 2**30, "5.0 GiB"), (3 * 2**40, "3.0 TiB"),
    ],
)  # fmt: skip
def test_memory_size(num_bytes, text):
    assert memory_size(num_bytes) == text


@pytest.mark.parametrize(
    ("secs", "text"),
    [(-3, "0:00"), (0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (61, "1:01"), (3599.6, "1:00:00"), (3723, "1:02:03"),
     (100 * 3600, "100:00:00")],
)  # fmt: skip
def test_duration(secs, text):
    assert duration(secs) == text


def test_all_goes_to_stderr_and_to_the_log(capsys, caplog):
    caplog.set_level(logging.INFO, "jaxdp")
    logging.getLogger("jaxdp").addHandler(caplog.handler)
    try:
        print_status("a [bold]sentence[/bold] " + "that is long " * 30)
        show_table([("devices", "8 x cpu"), ("data", "text")])
    finally:
        logging.getLogger("jaxdp").removeHandler(caplog.handler)
    out, err = capsys.readouterr()
    assert out == ""
    sentence, devices, data = err.splitlines()
    assert sentence.startswith("a [bold]sentence[/bold] that is long")
    assert (devices, data) == ("devices  8 x cpu", "data     text")
    assert "data: text" in caplog.messages


def test_texts_are_cut_to_the_width_of_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(terminal.console, "width", 20)
    show_cut([("source", "two\n lines  [b]"), ("output", "x" * 30), ("ref", "\x1b[2J" + "\u4e2d" * 8), ("none", "")])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "source  two lines […",
        "output  " + "x" * 11 + "…",
        "ref     \ufffd[2J\u4e2d\u4e2d\u4e2d …",  # a letter that is two columns wide
        "none    ",
    ]


def test_plain_lines_come_at_most_every_five_seconds_and_first_and_last_always(capsys):
    clock = Clock()
    with ProgressLine(0, 100, clock) as line:
        for step in range(1, 101):
            clock.now += 0.2
            line.write(step, training())
    steps = [int(text.split("/")[0].removeprefix("step")) for text in capsys.readouterr().err.splitlines()]
    assert steps == [1, 26, 51, 76, 100]


def test_evaluations_are_always_shown(capsys):
    with ProgressLine(0, 100, Clock()) as line:
        for step in range(1, 4):
            line.write(step, training())
            line.write(step, {"eval/loss": 1.5, "eval/perplexity": 4.4817, "eval/rows": 12})
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"step   {step}  eval loss 1.5000  perplexity 4.4817  rows 12" for step in range(1, 4)
    ]


def test_a_line_says_all_that_it_knows(capsys):
    clock = Clock()
    with ProgressLine(10, 50, clock) as line:
        clock.now += 20.0
        line.write(20, training(**{"perf/mfu": 0.415, "train/skipped": 3}))
    assert capsys.readouterr().err.splitlines() == [
        "step 20/50  loss 2.0000  lr 1.00e-03  grad 0.50  12.3k tok/s  mfu 41.5%  wait 0.1%  skipped 3  eta 1:00"
    ]


def test_a_loss_that_is_no_number_is_shown(capsys):
    with ProgressLine(0, 2, Clock()) as line:
        line.write(1, training(float("nan")))
    assert "loss nan" in capsys.readouterr().err


def test_in_a_terminal_one_line_is_redrawn_and_stays_off_stdout(capsys, monkeypatch):
    console = terminal.Console(stderr=True, highlight=False, force_terminal=True, width=120)
    monkeypatch.setattr(terminal, "console", console)
    clock = Clock()
    with ProgressLine(0, 10, clock) as line:
        for step in range(1, 11):
            clock.now += 0.125
            line.write(step, training())
        line.write(10, {"eval/loss": 1.0})
    out, err = capsys.readouterr()
    assert out == ""
    drawn = [step for step in range(1, 11) if f"step {step:>2}/10" in err]
    assert drawn == [1, 3, 5, 7, 9, 10]
    assert "step 10  eval loss 1.0000" in err
