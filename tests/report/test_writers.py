"""Metrics files through crashes and resumes."""

import json
import os
import time
import tracemalloc

import numpy as np
import pytest

from jaxdp.errors import UserError
from jaxdp.report.writers import (
    MetricsFile,
    iterate_metrics,
    plain_values,
    read_metrics,
    truncate_after,
)


def write_steps(path, steps):
    writer = MetricsFile(path)
    for step in steps:
        writer.write(step, {"train/loss": 1.0 / step})
    writer.close()


def steps_in(path):
    return [row["step"] for row in read_metrics(path)]


def test_a_line_is_strict_json_and_on_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsFile(path)
    before = time.time()
    writer.write(
        np.int64(10),
        {
            "train/loss": np.float32(1.5),
            "train/grad_norm": float("nan"),
            "perf/mfu": float("-inf"),
            "train/skipped": 2,
            "data/batch_hash": "9f\n",
        },
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (line,) = path.read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert list(row)[:2] == ["step", "time"]
    assert before <= row.pop("time") <= time.time()
    assert row == {
        "step": 10,
        "train/loss": 1.5,
        "train/grad_norm": None,
        "perf/mfu": None,
        "train/skipped": 2,
        "data/batch_hash": "9f\n",
    }
    writer.close()


def test_every_prefix_of_a_file_reads_as_its_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2, 3])
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert steps_in(path) == [1, 2, 3][: content[:length].count(b"\n")]


def test_appending_after_a_crash_does_not_glue_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-5])
    write_steps(path, [2, 3])
    assert steps_in(path) == [1, 2, 3]


def test_truncate_after_drops_later_lines_and_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [10, 20, 30, 40])
    first_two = path.read_bytes().splitlines(keepends=True)[:2]
    path.write_bytes(path.read_bytes()[:-3])
    truncate_after(path, 20)
    assert path.read_bytes() == b"".join(first_two)
    assert list(tmp_path.iterdir()) == [path]


def test_truncate_after_leaves_a_missing_file_missing(tmp_path):
    truncate_after(tmp_path / "metrics.jsonl", 5)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no metrics file .*runs.metrics\.jsonl"):
        read_metrics(tmp_path / "runs" / "metrics.jsonl")


@pytest.mark.parametrize("damage", ["{oops", "[1]", '{"loss": 1}', '{"step": "1"}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + damage + '\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is "):
        read_metrics(path)


def memory_of(call):
    """Bytes that a call needs at most at one time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("last", [5, 10**6])
def test_a_large_file_takes_the_memory_of_a_line_at_resume(tmp_path, last):
    path = tmp_path / "metrics.jsonl"
    line = json.dumps({"step": 1, "train/loss": 1.0, "name": "x" * 150}) + "\n"
    with open(path, "w") as file:
        file.writelines(line for _ in range(20_000))
        evaluation = json.dumps({"step": last, "eval/loss": 2.0}) + "\n"
        file.write(evaluation + '{"step": 7, "tor')
    assert memory_of(lambda: truncate_after(path, 5)) < 1_000_000
    assert path.stat().st_size == len(line) * 20_000 + (len(evaluation) if last == 5 else 0)
    path.write_bytes(path.read_bytes() + b"torn")
    assert memory_of(lambda: MetricsFile(path).close()) < 1_000_000
    assert path.read_bytes().endswith(b"}\n")
    found = []
    assert memory_of(lambda: found.extend(iterate_metrics(path, "eval/loss"))) < 1_000_000
    assert found == ([{"step": 5, "eval/loss": 2.0}] if last == 5 else [])


def test_a_file_with_nothing_to_drop_is_not_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2, 3])
    before = path.stat()
    truncate_after(path, 3)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("length", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16 + 5])
@pytest.mark.parametrize("start", [b"", b'{"step": 1}\n'])
def test_a_torn_line_of_any_length_is_cut_off(tmp_path, start, length):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(start + b"x" * length)
    MetricsFile(path).close()
    assert path.read_bytes() == start


def test_a_line_without_end_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"step": 1}\n{"step": ')
        file.truncate(2**25)  # zeros, as a file system leaves them after a power failure
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is b'{\"step\": .x00"):
        truncate_after(path, 1)


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 1, "train/loss": [1]}', b'{"step": 1, "train/loss": {"a": 1}}', b'{"step": -1}', b'{"step": true}',
        b'{"step": 1.0}', b'{"step": ' + b"9" * 400 + b"}", b'{"step": 1, "train/loss": ' + b"9" * 400 + b"}",
        b'{"step": 1, "a": ' + b"[" * 100_000, b'{"step": 1, "a": "\xff"}', b"\x00", b"null", b"7",
    ],
    ids=lambda line: str(line)[:30],
)  # fmt: skip
def test_values_of_odd_types_are_named_by_their_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0, "a": 1.5, "b": null, "c": "text", "d": NaN}\n' + line + b"\n")
    for read in (read_metrics, lambda path: truncate_after(path, 0)):
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is "):
            read(path)


def test_a_directory_is_not_called_a_missing_metrics_file(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"/metrics\.jsonl is a directory; expected the metrics\.jsonl of a run"):
        list(iterate_metrics(tmp_path / "metrics.jsonl"))


def test_a_named_pipe_is_no_metrics_file(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is a named pipe; expected"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_metrics_become_strings_and_python_numbers():
    given = {"a/int": 3, "a/text": "x", "a/numpy": np.float32(0.5), "a/array": np.array(2.0), "a/nan": float("nan")}
    plain = plain_values(given)
    assert {name: type(value) for name, value in plain.items()} == {
        "a/int": int, "a/text": str, "a/numpy": float, "a/array": float, "a/nan": float,
    }  # fmt: skip
    assert plain["a/numpy"] == 0.5 and plain["a/array"] == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": 1.0}, r"the metric 'loss' must have a name of the form 'group/name'"),
        ({3: 1.0}, r"the metric 3 must have a name"),
        ({"train/x": None}, r"the metric 'train/x' must be a number or a string, found None"),
        ({"train/x": np.zeros(3)}, r"the metric 'train/x' must be a number or a string, found array"),
        ([("train/x", 1.0)], r"metrics must be a dict from full name to number, found"),
    ],
)
def test_other_metrics_are_refused_by_name(values, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plain_values(values)
