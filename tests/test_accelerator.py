"""Accelerator check as a command: sections that fail or do not end, and the whole check with tiny sizes on a CPU."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerator.__main__ import main
from accelerator.context import ROWS_FILE, append_row, read_rows, write_rows
from accelerator.parity import MAX_ERROR, attention_cases, attention_errors
from accelerator.runner import LOG_FILE, run_sections
from accelerator.sections import SECTIONS, Section
from accelerator.workload import SIZES

from jaxdp.model.attention_backends.plain import reference_attention
from jaxdp.model.masks import make_mask

ROOT = Path(__file__).parents[1]

FAULTS = """
import os, subprocess, sys, time

def works(context):
    context.report("size", context.size, remaining=context.remaining_secs)

def fails(context):
    context.report("before", "measured")
    raise ValueError("the kernel returned NaN")

def crashes(context):
    os.abort()

def hangs(context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    context.report("child", str(child.pid))
    context.progress("waiting for nothing")
    time.sleep(600)

def in_parts(context):
    from tests.accelerator.apart import run_apart
    for name, *arguments in (("part_fails", "a"), ("part_crashes",), ("part_hangs",), ("part_works", 3, [True, "b"])):
        run_apart(context, f"row of {name}", f"accelerator_faults:{name}", *arguments)

def part_fails(context, name):
    raise ValueError(f"the kernel {name} returned NaN")

def part_crashes(context):
    os.abort()

def part_hangs(context):
    context.report("child", str(os.getpid()))
    context.progress("compiling what never ends")
    time.sleep(600)

def part_works(context, *arguments):
    context.report("part", str(arguments), remaining=context.remaining_secs)
"""


def is_running(pid):
    """Returns whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """A module of sections, which the processes of the runner find."""
    (tmp_path / "accelerator_faults.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "out").mkdir()
    return tmp_path


def run(directory, *sections, limit=60.0):
    """Runs sections; returns their outcomes and the rows they recorded."""
    made = [
        Section(name, f"accelerator_faults:{name}", limit_secs=limit_secs, min_secs=min_secs, stage=stage)
        for name, limit_secs, min_secs, stage in sections
    ]
    outcomes = list(run_sections(made, "tiny", directory / "out", directory, time.time() + limit))
    return outcomes, read_rows(directory / "out")


def test_a_failure_is_a_row_and_stops_nothing(faults):
    outcomes, rows = run(faults, ("fails", 60, 1, 0), ("crashes", 60, 1, 0), ("works", 60, 1, 1))
    assert [outcome["status"] for outcome in outcomes] == ["failed", "failed", "done"]
    assert outcomes[0]["reason"] == "exit code 1: ValueError: the kernel returned NaN"
    assert outcomes[1]["reason"].startswith("exit code -6")
    found = {(row["section"], row["name"]): row["result"] for row in rows}
    assert found == {
        ("fails", "before"): "measured", ("fails", "section"): "failed", ("crashes", "section"): "failed", ("works", "size"): "tiny",
    }  # fmt: skip
    assert "Traceback" in (faults / "out" / LOG_FILE).read_text()


def test_a_section_over_its_limit_is_stopped_with_its_processes(faults):
    outcomes, rows = run(faults, ("hangs", 5, 1, 0), ("works", 60, 1, 1))
    assert [outcome["status"] for outcome in outcomes] == ["stopped", "done"]
    assert rows[0]["name"] == "child" and not is_running(rows[0]["result"])
    assert (rows[1]["result"], rows[1]["note"]) == ("stopped", outcomes[0]["reason"])
    assert ": waiting for nothing, for " in rows[1]["note"]


@pytest.mark.slow  # takes half of its limit; sections fail, crash and hang above
def test_parts_of_a_section_fail_alone(faults):
    """Each is a row: an error, a crash, and a part that does not end in half of the section's time."""
    outcomes, rows = run(faults, ("in_parts", 40, 1, 0))
    assert [outcome["status"] for outcome in outcomes] == ["done"]
    assert [(row["name"], row["result"]) for row in rows] == [
        ("row of part_fails", "failed"), ("row of part_crashes", "failed"), ("child", rows[2]["result"]),
        ("row of part_hangs", "stopped"), ("part", "(3, [True, 'b'])"),
    ]  # fmt: skip
    assert rows[0]["note"] == "exit code 1: ValueError: the kernel a returned NaN"
    assert rows[1]["note"].startswith("exit code -6")
    assert ": compiling what never ends, for " in rows[3]["note"] and not is_running(rows[2]["result"])
    assert rows[4]["data"]["remaining"] < 20
    assert "the kernel a returned NaN" in (faults / "out" / LOG_FILE).read_text()


def test_a_section_without_time_is_skipped(faults):
    outcomes, rows = run(faults, ("works", 60, 60, 0), limit=20.0)
    assert [(outcome["status"], outcome["reason"]) for outcome in outcomes] == [("skipped", "no time left")]
    assert [row["result"] for row in rows] == ["skipped"]


def test_a_check_continues_an_earlier_one(tmp_path, capfd, monkeypatch):
    """It keeps the rows of other sections, measures the named ones again, and has one table of both."""
    monkeypatch.delenv("NANOGPT_DIR", raising=False)
    row = {"name": "device", "result": "1 x cpu", "note": "", "data": {"size": "tiny", "header": {"chip": "1 x cpu"}}}
    rows = [row | {"section": "nanoGPT 124M", "name": "section", "result": "skipped"}, row | {"section": "environment"}]
    write_rows(tmp_path, rows)
    options = ["--size=tiny", f"--out={tmp_path / 'out'}", "--only=nanoGPT 124M", f"--continue={tmp_path / ROWS_FILE}"]
    assert main(options) == 0
    report = json.loads((tmp_path / "out" / "accelerator.json").read_text())
    assert [(row["section"], row["result"]) for row in report["rows"]] == [
        ("environment", "1 x cpu"), ("nanoGPT 124M", "not measured"),
    ]  # fmt: skip
    assert [section["section"] for section in report["sections"]] == ["nanoGPT 124M"]
    assert "- chip: 1 x cpu" in capfd.readouterr().out


@pytest.mark.parametrize(("found", "sizes"), [(None, ["auto", "full"]), ("tiny", ["tiny", "tiny"])])
def test_the_size_is_that_of_the_device(faults, found, sizes):
    """Of an earlier check too; without one, the first section looks for it, and if it fails the check is whole."""
    if found:
        append_row(
            faults / "out", {"section": "e", "name": "device", "result": "", "note": "", "data": {"size": found}}
        )
    sections = [Section(f"works {stage}", "accelerator_faults:works", 60, 1, stage=stage) for stage in (0, 1)]
    list(run_sections(sections, "auto", faults / "out", faults, time.time() + 60))
    assert [row["result"] for row in read_rows(faults / "out") if row["name"] == "size"] == sizes


@pytest.mark.parametrize("name", ["cross-attention, padding", "causal, soft cap"])
def test_parity_finds_a_kernel_that_leaves_something_out(name):
    """Plain attention itself passes; without the mask of the source, or the cap, it does not."""
    shape = SIZES["tiny"].parity_shape
    case = attention_cases(shape)[name]
    plain = functools.partial(reference_attention, platform="cpu")
    errors = attention_errors(shape, case, plain)
    assert max(errors.values()) < MAX_ERROR and errors["fused output"] == errors["plain output"] > 0
    forgetful = attention_errors(
        shape, case, lambda *inputs, softcap: plain(*inputs[:3], make_mask(causal=inputs[3].causal))
    )
    assert min(forgetful["fused output"], forgetful["fused gradient"]) > MAX_ERROR


@pytest.mark.slow
def test_the_whole_check_runs_to_its_end_on_a_cpu(tmp_path):
    """In the environment of the tests, with the number of CPU devices that JAX takes by itself: one."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NANOGPT_DIR", "OUT")}
    environment |= {"JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-m", "tests.accelerator", f"--out={tmp_path / 'report'}", "--limit=1200"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "report" / "accelerator.json").read_text())
    assert [(section["section"], section["status"]) for section in report["sections"]] == [
        (section.name, "done") for section in SECTIONS
    ]
    assert report["header"]["size"] == "tiny"
    rows = {row["section"]: [] for row in report["rows"]}
    for row in report["rows"]:
        rows[row["section"]].append(row)
    assert not [row for row in report["rows"] if row["result"] in ("failed", "skipped", "stopped")]
    assert all(row["data"]["passed"] for row in rows["parity"] if "passed" in row["data"])
    assert all("bitwise equal" in row["result"] for row in rows["repeat"])
    assert len(rows["profile"]) == 11
    assert finished.stdout.endswith((tmp_path / "report" / "accelerator.md").read_text() + "\n")
