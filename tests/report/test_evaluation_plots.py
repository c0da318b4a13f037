"""The picture of an evaluation: what it shows, what it refuses, what it imports."""

import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxdp.errors import UserError
from jaxdp.report.evaluation_plots import (
    FAINT,
    _best_precisions,
    _colored,
    _heading,
    plot_evaluation,
    read_report,
)
from jaxdp.report.plotting import COLORS
from jaxdp.tasks.classification_metrics import (
    summarize_multi_label,
    summarize_regression,
    summarize_single_label,
)

NAMES = ("_hidden", "cost_$x$", r"a\$b", "x" * 40)


def report_of(kind, num_labels=4, num_examples=200):
    random = np.random.default_rng(0)
    if kind == "regression":
        targets = random.normal(size=num_examples)
        return summarize_regression(targets + random.normal(0, 0.3, num_examples), targets).report
    names = NAMES if num_labels == 4 else [str(number) for number in range(num_labels)]
    labels = random.integers(0, num_labels, num_examples)
    scores = random.normal(size=(num_examples, num_labels)) + 2 * np.eye(num_labels)[labels]
    if kind == "multi_label":
        return summarize_multi_label(1 / (1 + np.exp(-scores)), np.eye(num_labels)[labels], names).report
    return summarize_single_label(np.exp(scores) / np.exp(scores).sum(1, keepdims=True), labels, names).report


def read_png(path):
    """`[height, width, 3]` whole numbers from 0 to 255."""
    return np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(np.int16)


def has_color(pixels, name):
    return bool((np.abs(pixels - np.round(np.array(to_rgb(name)) * 255)).max(-1) <= 1).any())


@pytest.mark.parametrize(
    ("kind", "num_colors", "shape"),
    [
        ("single_label", 4, (1500, 1680, 3)),
        ("multi_label", 4, (1500, 1680, 3)),
        ("regression", 1, (750, 840, 3)),
    ],
)
def test_every_curve_has_its_color(kind, num_colors, shape, tmp_path):
    report = json.loads(json.dumps(report_of(kind)))
    out = plot_evaluation(report, tmp_path / "plots" / "evaluation.png")
    assert out == tmp_path / "plots" / "evaluation.png"
    pixels = read_png(out)
    assert pixels.shape == shape
    found = [has_color(pixels, color) for color in COLORS[: num_colors + 1]]
    # Points of a scatter overlap with some transparency, so their color is a mixture.
    assert found == [True] * num_colors + [False]


@pytest.mark.parametrize("num_labels", [13, 35])
def test_the_matrix_of_many_labels_is_colored_by_shares_of_rows(num_labels, tmp_path):
    labels = np.concatenate([np.arange(num_labels), np.zeros(500, int)])  # rare ones are seen too
    probabilities = np.eye(num_labels)[labels]
    report = summarize_single_label(probabilities, labels, [str(number) for number in range(num_labels)]).report
    pixels = read_png(plot_evaluation(report, tmp_path / "many.png"))
    darkest = np.array(matplotlib.colormaps["Blues"](1.0)[:3]) * 255
    is_dark = np.abs(pixels - np.round(darkest)).max(-1) <= 1
    matrix = is_dark[:700, :800]
    # The diagonal alone: one cell in each row, 1 / num_labels of the square.
    rows, columns = np.nonzero(matrix.any(1))[0], np.nonzero(matrix.any(0))[0]
    square = matrix[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert square.mean() == pytest.approx(1 / num_labels, rel=0.1)


def test_curves_beyond_the_colors_are_grey():
    drawn = _colored(range(12))
    assert [color for _, color in drawn] == [FAINT] * 2 + list(COLORS)
    assert [curve for curve, _ in drawn] == [10, 11, *range(10)]


def test_the_area_below_a_drawn_curve_is_the_average_precision():
    report = report_of("multi_label")
    for curve in report["precision_recall"]:
        recall, precision = _best_precisions(curve)
        assert (np.diff(recall) < 0).all()
        # Each precision is held down to the next recall; the last point is at 0.
        assert -np.diff(recall) @ precision[:-1] == pytest.approx(curve["average_precision"])


def test_the_line_on_top_says_of_what_the_picture_is():
    report = report_of("regression")
    assert _heading(report, "") == "200 examples"
    placed = report | {"step": 7, "split": "train", "accuracy": 0.5}
    assert _heading(placed, "run") == "run,  step 7,  split train,  200 examples,  accuracy 0.500"


def test_reports_are_read_if_they_can_be_drawn(tmp_path):
    path = tmp_path / "evaluation.json"
    assert read_report(path) is None
    path.write_text(json.dumps(report_of("regression")))
    assert read_report(path) == report_of("regression")
    path.write_text('{"bleu": {}, "num_examples": 3}')  # of translations
    assert read_report(path) is None
    for content, told in (('{"kind"', "is not JSON"), ("[]", "holds a JSON list")):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"evaluation\.json {told}.*`jaxdp eval`"):
            read_report(path)


def test_labels_that_never_occur_leave_empty_curves(tmp_path):
    probabilities = np.tile([0.7, 0.3], (5, 1))
    report = summarize_single_label(probabilities, np.zeros(5, int), ("a", "b")).report
    assert report["roc"] == []
    plot_evaluation(report, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"kind None; expected one of: single_label, "):
        plot_evaluation({}, tmp_path / "none.png")
    empty = summarize_single_label(np.zeros((0, 2)), np.zeros(0, int), ("a", "b")).report
    with pytest.raises(UserError, match="no examples"):
        plot_evaluation(empty, tmp_path / "none.png")
    with pytest.raises(UserError, match="no examples with a finite output"):
        plot_evaluation(empty | {"num_not_finite": 3}, tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_late_and_without_pyplot(tmp_path, pytestconfig):
    (tmp_path / "report.json").write_text(json.dumps(report_of("single_label")))
    code = (
        "import json, sys, pathlib, jaxdp.report.evaluation_plots as p\n"
        "assert not {'matplotlib', 'jax', 'sklearn'} & set(sys.modules)\n"
        "report = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "p.plot_evaluation(report, pathlib.Path(sys.argv[1]).with_suffix('.png'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "report.json")]
    subprocess.run(command, cwd=pytestconfig.rootpath, check=True)
