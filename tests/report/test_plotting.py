"""The picture of training curves: what it shows, what it refuses, what it imports."""

import dataclasses
import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxdp.errors import UserError
from jaxdp.metrics import LOSS, MetricSpec
from jaxdp.report.norms_plot import _by_kind, plot_norms
from jaxdp.report.plotting import COLORS, _figure, _load_runs, _smooth, _spread, plot_runs
from jaxdp.report.run_curves import AXES, PlottedRun
from jaxdp.report.writers import MetricsFile
from jaxdp.tasks.translation_scores import SCORE_METRICS

BLEU, CHRF, _ = SCORE_METRICS


def write_run(directory, num_lines=30, **extra):
    directory.mkdir(parents=True)
    writer = MetricsFile(directory / "metrics.jsonl")
    for step in range(10, 10 * num_lines + 1, 10):
        values = {"train/loss": 1 + 50 / step, "train/learning_rate": 1e-3, "perf/tokens_per_sec": 2e4}
        writer.write(step, values | extra)
        if step % 100 == 0:
            writer.write(step, {"eval/loss": 1.1 + 50 / step})
    writer.close()
    return directory


def read_png(path):
    """`[height, width, 3]` whole numbers from 0 to 255."""
    return np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(np.int16)


def has_color(pixels, name):
    return bool((np.abs(pixels - np.round(np.array(to_rgb(name)) * 255)).max(-1) <= 1).any())


def test_every_run_is_drawn_in_its_color(tmp_path):
    # Names that Matplotlib would hide, or fail to read as mathematics, or take for one another.
    directories = [write_run(tmp_path / name) for name in ("_a", r"cost_$\5$", "b/_a")]
    out = plot_runs(list(map(PlottedRun, directories)), tmp_path / "plots" / "runs.png")
    assert out == tmp_path / "plots" / "runs.png"
    pixels = read_png(out)
    assert pixels.shape == (1125, 1650, 3)
    assert [has_color(pixels, color) for color in COLORS[:4]] == [True, True, True, False]


def test_constants_are_below_the_upper_end_of_their_panel(tmp_path):
    figure = _figure(_load_runs([PlottedRun(write_run(tmp_path / "run"))], LOSS.full_name), LOSS, LOSS)
    for axes, value in zip(figure.axes[1:], (1e-3, 2e4), strict=True):
        assert axes.get_ylim() == pytest.approx((0.0, 1.06 * value))


def test_hours_have_no_prefix(tmp_path):
    """Engineering notation would write 0.04 h as 40m, which reads as minutes."""
    figure = _figure(_load_runs([PlottedRun(write_run(tmp_path / "run"))], LOSS.full_name), LOSS, LOSS, AXES["time"])
    assert figure.axes[0].xaxis.get_major_formatter()(0.04, 0) == "0.04"
    figure = _figure(_load_runs([PlottedRun(tmp_path / "run")], LOSS.full_name), LOSS, LOSS, AXES["flops"])
    assert figure.axes[0].xaxis.get_major_formatter()(4e9, 0) == "4G"


def test_norms_have_one_map_a_kind_and_a_bounded_height(tmp_path):
    run = write_run(tmp_path / "run")
    for num_leaves in (3, 400):
        names = [f"norms/{kind}/layer_{leaf}" for kind in ("params", "grads") for leaf in range(num_leaves)]
        lines = [{"step": step, **dict.fromkeys(names, 0.5 * step)} for step in (10, 20)]
        (run / "norms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        height, width, _ = read_png(plot_norms(run, tmp_path / "norms.png")).shape
        assert width == 1650 and height == pytest.approx(150 * (1.9 + min(0.17 * num_leaves, 24)), abs=1)
    assert list(_by_kind({"norms/params/a": (), "norms/own": (), "norms/grads/a": (), "norms/own/b": ()}).items()) == [
        ("parameters", {"a": ()}), ("", {"own": (), "own/b": ()}), ("gradients", {"a": ()}),
    ]  # fmt: skip


def test_what_a_run_is_judged_by_has_a_panel_of_its_own(tmp_path):
    """Rings where the picture without it has the curve of the learning rate, thick and without rings."""
    run = write_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 300, "eval/bleu": 7.5}\n')
    plain, of_loss = (
        read_png(plot_runs([PlottedRun(run)], tmp_path / f"{spec.name}.png", spec)) for spec in (CHRF, LOSS)
    )
    np.testing.assert_array_equal(plain, of_loss)  # a run that has no such metric
    pixels = read_png(plot_runs([PlottedRun(run)], tmp_path / "bleu.png", BLEU))
    np.testing.assert_array_equal(pixels[:700], plain[:700])
    assert (pixels[800:] != plain[800:]).any()


def test_titles_have_the_units_and_the_direction(tmp_path):
    run = write_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 300, "eval/bleu": 7.5, "eval/wer": 0.5}\n')

    def titles(metric, loss):
        return [
            axes.get_title(loc="left")
            for axes in _figure(_load_runs([PlottedRun(run)], metric.full_name), metric, loss).axes
        ]

    squared = dataclasses.replace(LOSS, unit="squared deviations")
    assert titles(BLEU, LOSS) == [
        "Loss (nats)",
        "Bleu (points, higher is better)",
        "Learning rate",
        "Throughput (tokens/s)",
    ]
    falling = MetricSpec("wer", higher_is_better=False)
    assert titles(falling, squared)[:2] == ["Loss (squared deviations)", "Wer (lower is better)"]


def test_a_single_point_is_seen(tmp_path):
    run = write_run(tmp_path / "run", num_lines=1)
    pixels = read_png(plot_runs([PlottedRun(run)], tmp_path / "run.png"))
    assert has_color(pixels[200:600, 200:1300], COLORS[0])  # inside the axes of the loss


def test_a_curve_with_nothing_finite_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", **{"train/loss": float("nan")})
    assert has_color(read_png(plot_runs([PlottedRun(run)], tmp_path / "run.png")), COLORS[0])


def test_a_run_without_metrics_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no metrics file .*metrics\.jsonl"):
        plot_runs([PlottedRun(tmp_path)], tmp_path / "runs.png")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"metrics\.jsonl has nothing to plot"):
        plot_runs([PlottedRun(tmp_path)], tmp_path / "runs.png")
    assert not (tmp_path / "runs.png").exists()


def test_smoothing_is_a_centred_mean_over_finite_points():
    values = np.random.default_rng(0).normal(size=400)
    values[[0, 150, 399]] = np.nan
    expected = []
    for i in range(400):
        half_width = min(i // 4, 6)
        expected.append(np.nanmean(values[i - half_width : i + half_width + 1]) if i else np.nan)
    np.testing.assert_allclose(_smooth(values), expected, rtol=1e-9)


def test_labels_are_spread_until_none_overlap():
    heights = np.array([0.0, 0.01, 0.5, 0.51, 0.9])
    spread = _spread(heights, 0.05)
    assert np.diff(spread).min() > 0.0499 and spread[0] >= 0
    np.testing.assert_allclose(spread[2:], [0.48, 0.53, 0.9], atol=0.03)


def test_matplotlib_is_imported_late_and_without_pyplot(tmp_path, pytestconfig):
    write_run(tmp_path / "run")
    code = (
        "import sys, pathlib, jaxdp.report.plotting as p\n"
        "assert not {'matplotlib', 'jax'} & set(sys.modules)\n"
        "workdir = pathlib.Path(sys.argv[1])\n"
        "p.plot_runs([p.PlottedRun(workdir)], workdir / 'run.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "run")]
    subprocess.run(command, cwd=pytestconfig.rootpath, check=True)
