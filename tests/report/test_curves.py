"""Curves: streamed reading against line by line, decimation, means over seeds, and the axes of a plot."""

import itertools
import json

import numpy as np
import pytest

from jaxdp.errors import UserError
from jaxdp.report import curves
from jaxdp.report.curves import Curve, decimated, over_seeds, read_columns, read_last_values
from jaxdp.report.run_curves import PlottedRun, check_same_task, load_curves, load_groups, scaling_rows
from jaxdp.report.writers import MetricsFile, read_metrics

CONFIG = {"task": "causal_lm", "seed": 0, "global_batch_size": 4, "data": {"length": 8}, "parallel": {"cpu_devices": 1}}


def write_lines(directory, rows):
    directory.mkdir(parents=True, exist_ok=True)
    writer = MetricsFile(directory / "metrics.jsonl")
    for step, values in rows:
        writer.write(step, values)
    writer.close()
    return directory / "metrics.jsonl"


@pytest.mark.parametrize("block", [1, 50, 333, 2**22])
def test_blocks_read_what_lines_read(tmp_path, monkeypatch, block):
    monkeypatch.setattr(curves, "BLOCK_BYTES", block)
    values = [{"train/loss": 1 / step, "data/text": "a\n}{"} for step in range(1, 30)]
    values[3]["train/loss"] = float("nan")
    path = write_lines(tmp_path, [(7 * step, each) for step, each in enumerate(values, 1)] + [(300, {"eval/loss": 2})])
    path.write_bytes(path.read_bytes() + b'{"step": 400, "train/lo')
    rows = read_metrics(path)
    found = read_columns(path, ["train/loss", "eval/loss", "absent", "time"])
    for name in ("train/loss", "eval/loss", "time"):
        having = [(row["step"], row[name]) for row in rows if name in row]
        np.testing.assert_array_equal(found[name][0], [step for step, _ in having])
        np.testing.assert_array_equal(found[name][1], np.array([value for _, value in having], np.float64))
    assert found["absent"][0].size == 0
    assert read_last_values(path) == {name: value for row in rows for name, value in row.items()}
    assert set(read_columns(path, (), "train/")) == {"train/loss"}


@pytest.mark.parametrize("damage", ["{oops", "[1]", '{"step": "1"}', '{"loss": 1}', '{"step": 1}, {"step": 2}'])
def test_a_damaged_line_is_named_by_its_number(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a/b": 1}\n' * 3 + damage + '\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 4, is "):
        read_columns(path, ["a/b"])


def test_a_text_in_place_of_a_number_is_named_by_its_step(tmp_path):
    path = write_lines(tmp_path, [(1, {"a/b": 1}), (2, {"a/b": "1.5"})])
    with pytest.raises(UserError, match=r"a/b of step 2 is '1\.5', expected a number"):
        read_columns(path, ["a/b"])


def test_decimation_keeps_every_extreme_and_both_ends():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_003)
    values[rng.integers(0, values.size, 500)] = np.nan
    values[[7, 50_000]] = 99.0, -99.0
    curve = decimated(Curve(np.arange(values.size) * 2.0, values), 1000)
    assert len(curve.x) <= 1002 and curve.x[0] == 0 and curve.x[-1] == 2.0 * (values.size - 1)
    np.testing.assert_array_equal(curve.values, values[(curve.x / 2).astype(int)])
    edges = np.linspace(0, values.size, 501).astype(int)
    for start, stop in itertools.pairwise(edges):
        kept = curve.values[(curve.x >= 2 * start) & (curve.x < 2 * stop)]
        assert np.nanmin(kept) == np.nanmin(values[start:stop]) and np.nanmax(kept) == np.nanmax(values[start:stop])
    assert decimated(curve, 2000) is curve


def test_a_stretch_without_numbers_stays_one():
    values = np.full(10_000, np.nan)
    values[:100] = 1.0
    curve = decimated(Curve(np.arange(10_000.0), values), 100)
    assert np.isfinite(curve.values[curve.x < 100]).all() and np.isnan(curve.values[curve.x >= 100]).all()


def test_seeds_have_a_mean_and_a_range_where_all_have_values():
    one = Curve(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, np.nan]))
    other = Curve(np.array([1.0, 3, 5]), np.array([3.0, 5, 7]))
    both = over_seeds([one, other])
    np.testing.assert_array_equal(both.x, [1, 2, 3])
    np.testing.assert_allclose(both.values, [2, 3, 4])
    np.testing.assert_allclose(both.low, [1, 2, 3])
    np.testing.assert_allclose(both.high, [3, 4, 5])
    np.testing.assert_array_equal(over_seeds([other, one]).x, [1, 3])


def run(tmp_path, name, rows=None, num_params=None, num_devices=1, **config):
    rows = rows or [(step, {"train/loss": 1.0 / step}) for step in (1, 2, 3)]
    write_lines(tmp_path / name, rows)
    return PlottedRun(tmp_path / name, {**CONFIG, **config}, num_params, num_devices)


def test_axes_by_tokens_flops_and_time(tmp_path):
    plotted = run(tmp_path, "run", num_params=100)
    path = plotted.directory / "metrics.jsonl"
    rows = [{"step": step, "time": 1e9 + 3600 * hours, "train/loss": 1} for step, hours in ((1, 0), (2, 2), (3, 1))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = {"step": [1, 2, 3], "tokens": [32, 64, 96], "flops": [19200, 38400, 57600], "time": [0, 2, 2]}
    for by, positions in expected.items():
        np.testing.assert_allclose(load_curves(plotted, ["train/loss"], by)["train/loss"].x, positions)


@pytest.mark.parametrize(
    ("by", "changes", "message"),
    [
        ("tokens", {"data": None}, r"config\.json has no global_batch_size and data\.length"),
        ("flops", {}, r"checkpoints has no whole checkpoint"),
    ],
)
def test_a_run_without_what_the_axis_needs_is_refused(tmp_path, by, changes, message):
    with pytest.raises(UserError, match=message):
        load_curves(run(tmp_path, "run", **changes), ["train/loss"], by)


def test_runs_that_differ_only_in_the_seed_are_one_group(tmp_path):
    runs = [run(tmp_path, f"base_seed{seed}", seed=seed) for seed in (0, 1)]
    runs += [run(tmp_path, "other", global_batch_size=8), run(tmp_path, "other_seed_3", seed=3, global_batch_size=8)]
    runs.append(PlottedRun(write_lines(tmp_path / "bare", [(1, {"train/loss": 1.0})]).parent))
    groups = load_groups(runs, ["train/loss"])
    assert [group.name for group in groups] == ["base (2 seeds)", "other (2 seeds)", "bare"]
    assert [group.curves["train/loss"].low is None for group in groups] == [False, False, True]


def test_step_times_of_runs_that_differ_only_in_the_number_of_devices(tmp_path):
    def timed(name, count, secs, **config):
        rows = [(step, {"perf/step_secs": value}) for step, value in enumerate([99.0, secs, secs, 9 * secs], 1)]
        return run(tmp_path, name, rows, num_devices=count, parallel={"cpu_devices": count}, **config)

    runs = [timed("four", 4, 0.5), timed("one", 1, 1.6), timed("two", 2, 0.8), timed("two_again", 2, 1.0, seed=1)]
    assert scaling_rows(runs) == [
        {"devices": 1, "step_secs": 1.6, "efficiency": 1.0},
        {"devices": 2, "step_secs": 0.9, "efficiency": pytest.approx(1.6 / 1.8)},
        {"devices": 4, "step_secs": 0.5, "efficiency": pytest.approx(0.8)},
    ]
    assert scaling_rows(runs[:1]) == scaling_rows(runs[2:]) == []
    assert scaling_rows([*runs, timed("other", 8, 0.3, global_batch_size=8)]) == []


def test_runs_of_different_tasks_are_refused(tmp_path):
    runs = [run(tmp_path, "a"), run(tmp_path, "b", task="classification")]
    with pytest.raises(UserError, match=r"no metric in common, found causal_lm \(.*/a\), classification \(.*/b\)"):
        check_same_task(runs)
