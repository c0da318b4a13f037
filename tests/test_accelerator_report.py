"""Accelerator check: its table and the reduction of a profile. The numbers themselves are no matter of tests."""

import collections
import gzip
import json

import numpy as np
import pytest
from accelerator.report import JSON_FILE, MARKDOWN_FILE, in_order, markdown, write_report
from accelerator.sections import SECTIONS

from jaxdp.bench.device_time import Operation, device_time, find_trace, grouped, read_device_time, source_names

HEADER = {"chip": "1 x H100", "command": "`python -m tests.accelerator`"}
ROWS = [
    {"section": "speed", "name": "124M", "result": "600,000 tokens/s", "note": "", "data": {"rows": 16}},
    {"section": "environment", "name": "device", "result": "a | b\nc", "note": "990 TFLOP/s", "data": {}},
    {"section": "speed", "name": "section", "result": "stopped", "note": "not finished", "data": {}},
]
OUTCOMES = [
    {"section": "environment", "status": "done", "secs": 3.2, "reason": "", "output": []},
    {"section": "speed", "status": "stopped", "secs": 60.0, "reason": "not finished", "output": ["last line"]},
]


def test_the_table_has_every_row_in_the_order_of_the_sections():
    assert markdown(HEADER, in_order(ROWS, ["environment", "speed"]), OUTCOMES).splitlines() == [
        "- chip: 1 x H100",
        "- command: `python -m tests.accelerator`",
        "",
        "| section | measurement | result | details |",
        "| --- | --- | --- | --- |",
        "| environment | device | a \\| b c | 990 TFLOP/s |",
        "| speed | 124M | 600,000 tokens/s |  |",
        "| speed | section | stopped | not finished |",
        "",
        "Sections: environment 3 s (done), speed 60 s (stopped).",
    ]


def test_both_files_hold_the_report(tmp_path):
    text = write_report(tmp_path, HEADER, ROWS, OUTCOMES)
    assert (tmp_path / MARKDOWN_FILE).read_text() == text == markdown(HEADER, ROWS, OUTCOMES)
    assert json.loads((tmp_path / JSON_FILE).read_text()) == {"header": HEADER, "sections": OUTCOMES, "rows": ROWS}


def test_sections_are_sorted_by_stage_and_have_a_time_limit():
    stages = [section.stage for section in SECTIONS]
    assert stages == sorted(stages) and stages[0] == 0 and stages.count(0) == 1
    assert all(section.limit_secs > section.min_secs > 0 for section in SECTIONS)
    # Sections that run at the same time share the device memory; `repeat` starts three processes.
    shares = {section.name: section.memory_fraction * (3 if section.name == "repeat" else 1) for section in SECTIONS}
    for stage in set(stages):
        assert sum(shares[section.name] for section in SECTIONS if section.stage == stage) <= 0.9


def name_event(kind, pid, name, tid=None):
    event = {"ph": "M", "name": kind, "pid": pid, "args": {"name": name}}
    return event if tid is None else event | {"tid": tid}


def span(pid, tid, name, start, duration, operation=None):
    arguments = {"args": {"hlo_op": operation}} if operation else {}
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": duration, **arguments}


GPU = [
    name_event("process_name", 1, "/device:GPU:0"),
    name_event("process_name", 2, "/device:GPU:1"),
    name_event("process_name", 9, "/host:CPU"),
    name_event("thread_name", 1, "Stream #13(Compute)", 13),
    name_event("thread_name", 1, "Steps", 7),
    name_event("thread_name", 9, "python", 4),
    span(1, 13, "Memset 0", 98, 2, "dot.1"),
    span(1, 13, "nvjet_tst", 100, 30, "dot.1"),
    span(1, 13, "nvjet_tst", 140, 30, "dot.1"),
    span(1, 13, "loop_fusion_2", 170, 10),
    span(1, 7, "a step", 100, 90),
    span(2, 13, "nvjet_tst", 100, 30, "dot.1"),
    span(9, 4, "host", 0, 900, "dot.1"),
    {},
]


def test_a_gpu_counts_the_streams_of_its_first_device():
    time = device_time(GPU)
    found = [(operation.name, operation.kernel, operation.secs, operation.count) for operation in time.operations]
    assert found == [
        ("dot.1", "nvjet_tst", pytest.approx(62e-6), 3),
        ("loop_fusion_2", "loop_fusion_2", pytest.approx(10e-6), 1),
    ]
    assert time.busy_secs == pytest.approx(72e-6) and time.span_secs == pytest.approx(82e-6)


def test_a_tpu_counts_its_operations_without_those_nested_in_them():
    """A loop holds two products; the thread of modules is no work of its own."""
    time = device_time(
        [
            name_event("process_name", 3, "/device:TPU:0"),
            name_event("thread_name", 3, "XLA Ops", 2),
            name_event("thread_name", 3, "XLA Modules", 1),
            span(3, 1, "jit_step", 0, 100),
            span(3, 2, "while.3", 0, 100),
            span(3, 2, "dot.1", 10, 40),
            span(3, 2, "dot.1", 50, 40),
        ]
    )
    assert [(operation.name, round(1e6 * operation.secs)) for operation in time.operations] == [
        ("dot.1", 80),
        ("while.3", 20),
    ]
    assert time.busy_secs == pytest.approx(100e-6)


def test_kernels_that_overlap_share_their_time():
    """Two overlapping kernels of a CUDA graph, and a copy during both: no instant counts twice."""
    time = device_time(
        [
            name_event("process_name", 1, "/device:GPU:0"),
            name_event("thread_name", 1, "Stream #13(Compute)", 13),
            span(1, 13, "nvjet_tst", 0, 60, "command_buffer_1"),
            span(1, 13, "loop_fusion_2", 50, 50, "command_buffer_1"),
            span(1, 13, "memcpy32", 55, 2, "command_buffer_1"),
            span(1, 13, "loop_fusion_2", 110, 10, "command_buffer"),
        ]
    )
    assert {operation.name: round(1e6 * operation.secs) for operation in time.operations} == {
        "nvjet_tst": 50, "loop_fusion_2": 58, "memcpy32": 2,
    }  # fmt: skip
    assert (
        sum(operation.secs for operation in time.operations) == pytest.approx(time.busy_secs) == pytest.approx(110e-6)
    )


def test_no_instant_counts_twice_however_events_overlap():
    """Against a count of every microsecond: it belongs to the event that started last, the shorter one of two."""
    random = np.random.default_rng(0)
    for _ in range(50):
        starts, durations = random.integers(0, 40, 12), random.integers(1, 30, 12)
        keys = sorted(zip(starts.tolist(), (-durations).tolist(), strict=True))
        expected = collections.Counter()
        for instant in range(80):
            running = [i for i, (start, minus) in enumerate(keys) if start <= instant < start - minus]
            if running:
                expected[f"op{running[-1]}"] += 1
        time = device_time(
            [name_event("process_name", 3, "/device:TPU:0"), name_event("thread_name", 3, "XLA Ops", 2)]
            + [span(3, 2, f"op{i}", start, -minus) for i, (start, minus) in enumerate(keys)]
        )
        found = {operation.name: round(1e6 * operation.secs) for operation in time.operations if operation.secs}
        assert found == {name: count for name, count in expected.items() if count}


def test_a_cpu_counts_events_that_name_an_operation():
    time = device_time([span(9, 4, "python call", 0, 900), span(9, 5, "dot.1", 100, 50, "dot.1")])
    assert [operation.name for operation in time.operations] == ["dot.1"]


def test_without_operations_there_is_no_time():
    time = device_time([span(9, 4, "python call", 0, 900)])
    assert (time.operations, time.busy_secs, time.span_secs) == ([], 0.0, 0.0)


def test_the_trace_is_found_and_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="the profiler wrote nothing"):
        find_trace(tmp_path)
    path = tmp_path / "plugins" / "profile" / "now" / "host.trace.json.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": GPU}, file)
    assert find_trace(tmp_path) == path
    assert read_device_time(path) == device_time(GPU)


def test_operations_are_traced_to_the_model():
    """By the name of the operation, and by that of its kernel."""
    hlo = """
      %loop_fusion.2 = f32[8]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(step)/mlp/gelu" source_line=3}
      ROOT %dot.1 = f32[8]{0} dot(%a, %b), metadata={op_name="jit(step)/attention/out"}
      %copy.4 = f32[8]{0} copy(%a)
    """
    sources = source_names(hlo)
    assert sources["loop_fusion.2"] == sources["loop_fusion_2"] == "jit(step)/mlp/gelu"
    assert sources["dot.1"] == "jit(step)/attention/out"
    assert "copy.4" not in sources


def test_operations_of_one_kind_and_place_are_summed():
    """Unrolled layers give one line, other places another."""
    operations = [Operation(f"loop_fusion.{index}", f"loop_fusion_{index}", 2.0, 3) for index in (1, 2, 3)]
    sources = {f"loop_fusion.{index}": f"jit(step)/layer_{10 + index}/mlp/gelu" for index in (1, 2)}
    assert grouped([*operations, Operation("dot_4", "nvjet", 5.0, 1)], sources) == [
        Operation("dot", "nvjet", 5.0, 1, ""),
        Operation("loop_fusion", "loop_fusion_1", 4.0, 6, "jit(step)/layer_N/mlp/gelu"),
        Operation("loop_fusion", "loop_fusion_3", 2.0, 3, ""),
    ]
