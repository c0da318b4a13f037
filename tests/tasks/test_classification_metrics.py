"""Metrics of a whole split against their definitions, written out in NumPy."""

import itertools
import json
import math

import numpy as np
import pytest

from jaxdp.tasks.classification_curves import CURVE_POINTS, calibration
from jaxdp.tasks.classification_metrics import (
    SUMMARY_METRICS,
    summarize_finite,
    summarize_multi_label,
    summarize_regression,
    summarize_single_label,
)

NAMES = ("ale", "milk", "tea", "wine")


@pytest.fixture(scope="module")
def single():
    random = np.random.default_rng(0)
    labels = random.choice(4, 300, p=(0.5, 0.3, 0.15, 0.05))
    scores = random.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels]
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True), labels


@pytest.fixture(scope="module")
def several():
    random = np.random.default_rng(1)
    labels = random.random((300, 4)) < (0.5, 0.3, 0.15, 0.05)
    return 1 / (1 + np.exp(-(random.normal(size=(300, 4)) + 3 * labels - 1.5))), labels.astype(np.float32)


def ratio(numerator, denominator):
    return numerator / denominator if denominator else 0.0


def table_of(is_true, is_given):
    """Precision, recall, F1 and support of each label."""
    rows = []
    for true, given in zip(is_true.T, is_given.T, strict=True):
        both = (true & given).sum()
        precision, recall = ratio(both, given.sum()), ratio(both, true.sum())
        rows.append((precision, recall, ratio(2 * precision * recall, precision + recall), true.sum()))
    return np.array(rows)


def area_under_roc(is_true, scores):
    """The chance that a true one has the larger score: Hanley and McNeil 1982."""
    above = scores[is_true][:, None] - scores[~is_true][None, :]
    return ((above > 0) + 0.5 * (above == 0)).mean()


def average_precision(is_true, scores):
    order = np.argsort(-scores)
    hits = is_true[order]
    return (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()


def check(summary, is_true, is_given, probabilities):
    report, table = summary.report, table_of(is_true, is_given)
    found = [[row["precision"], row["recall"], row["f1"], row["support"]] for row in report["classes"]]
    np.testing.assert_allclose(found, table)
    macro, weighted = table[:, :3].mean(0), (table[:, :3] * table[:, 3:]).sum(0) / table[:, 3].sum()
    both = (is_true & is_given).sum()
    micro_f1 = 2 * both / (is_true.sum() + is_given.sum())
    areas = [area_under_roc(is_true[:, n], probabilities[:, n]) for n in range(4)]
    precisions = [average_precision(is_true[:, n], probabilities[:, n]) for n in range(4)]
    expected = {
        "macro_f1": macro[2], "micro_f1": micro_f1, "weighted_f1": weighted[2],
        "macro_precision": macro[0], "macro_recall": macro[1],
        "roc_auc": np.mean(areas), "average_precision": np.mean(precisions),
        "calibration_error": report["calibration"]["error"],
    }  # fmt: skip
    assert summary.metrics == pytest.approx(expected)
    assert list(summary.metrics) == [spec.name for spec in SUMMARY_METRICS[report["kind"]]]
    assert report["averages"]["weighted"]["recall"] == pytest.approx(weighted[1])
    for number, (curve, area) in enumerate(zip(report["roc"], areas, strict=True)):
        assert curve["label"] == NAMES[number] and curve["auc"] == pytest.approx(area)
        # The points that are kept still bound the area.
        assert np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]) == pytest.approx(area, abs=0.01)
    for curve, precision in zip(report["precision_recall"], precisions, strict=True):
        assert curve["average_precision"] == pytest.approx(precision)
        assert curve["recall"][0] == 1 and curve["recall"][-1] == 0
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_single_labels(single):
    probabilities, labels = single
    summary = summarize_single_label(probabilities, labels, NAMES)
    predicted = probabilities.argmax(1)
    check(summary, np.eye(4, dtype=bool)[labels], np.eye(4, dtype=bool)[predicted], probabilities)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (labels, predicted), 1)
    assert summary.report["confusion_matrix"] == expected.tolist()
    assert summary.report["accuracy"] == summary.metrics["micro_f1"] == pytest.approx((labels == predicted).mean())


@pytest.mark.parametrize("summarize", [summarize_single_label, summarize_multi_label])
def test_macro_averages_are_over_the_labels_that_occur(summarize, single, several):
    probabilities, labels = single if summarize is summarize_single_label else several
    has_wine = labels == 3 if summarize is summarize_single_label else labels[:, 3] > 0
    whole = summarize(probabilities, labels, NAMES)
    summary = summarize(probabilities[~has_wine], labels[~has_wine], NAMES)
    assert whole.report["absent_labels"] == [] and summary.report["absent_labels"] == ["wine"]
    rows = summary.report["classes"][:3]
    assert summary.report["classes"][3]["f1"] == 0  # it is given by mistake, which the others' precision shows
    for metric, column in (("macro_f1", "f1"), ("macro_precision", "precision"), ("macro_recall", "recall")):
        assert summary.metrics[metric] == pytest.approx(np.mean([row[column] for row in rows]))
    assert summary.metrics["micro_f1"] < 1
    if summarize is summarize_single_label:  # as many are given as there are: micro averages are the accuracy
        assert summary.metrics["micro_f1"] == pytest.approx(summary.report["accuracy"])


def test_several_labels(several):
    probabilities, labels = several
    summary = summarize_multi_label(probabilities, labels, NAMES)
    is_true, is_given = labels > 0, probabilities > 0.5
    check(summary, is_true, is_given, probabilities)
    assert summary.report["accuracy"] == pytest.approx((is_true == is_given).all(1).mean())
    tables = np.array(summary.report["confusion_matrix"])
    np.testing.assert_array_equal(tables.sum((1, 2)), 300)
    np.testing.assert_array_equal(tables[:, 1, 1], (is_true & is_given).sum(0))
    np.testing.assert_array_equal(tables[:, 0, 1], (~is_true & is_given).sum(0))
    np.testing.assert_array_equal(tables[:, 1, 0], (is_true & ~is_given).sum(0))


def test_numbers():
    random = np.random.default_rng(2)
    targets = random.normal(100, 5, 500)
    values = targets + random.normal(1, 2, 500)
    summary = summarize_regression(values, targets)
    errors = values - targets
    assert summary.metrics == pytest.approx({
        "r2": 1 - (errors**2).mean() / targets.var(), "correlation": np.corrcoef(values, targets)[0, 1],
    })  # fmt: skip
    assert summary.report["mean_absolute_error"] == pytest.approx(np.abs(errors).mean())
    assert summary.report["root_mean_squared_error"] == pytest.approx(math.sqrt((errors**2).mean()))
    pairs = np.array(summary.report["pairs"])
    assert pairs.shape == (CURVE_POINTS, 2) and (np.diff(pairs[:, 0]) >= 0).all()
    assert pairs[0, 0] == targets.min() and pairs[-1, 0] == targets.max()


def test_calibration_is_the_mean_distance_of_the_bins():
    random = np.random.default_rng(3)
    confidence = np.concatenate([random.uniform(0, 1, 400), [0.0, 1.0, 1 / 15, 2 / 15]])
    is_right = random.random(404) < confidence**2
    found = calibration(confidence, is_right)
    error, counts, edges = 0.0, [], np.arange(16) / 15
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high) | ((low == 0) & (confidence == 0))
        error += abs(confidence[inside].mean() - is_right[inside].mean()) * inside.mean()
        counts.append(inside.sum())
    assert found["error"] == pytest.approx(error, abs=1e-12)
    assert [row["count"] for row in found["bins"]] == counts
    assert calibration(np.array([1.0]), np.array([True])) == {
        "error": 0.0, "bins": [{"confidence": 1.0, "accuracy": 1.0, "count": 1}],
    }  # fmt: skip


def test_labels_that_never_occur_are_undefined_not_wrong(single):
    probabilities, labels = single
    seen = labels < 2
    summary = summarize_single_label(probabilities[seen], labels[seen], NAMES)
    assert [row["roc_auc"] is None for row in summary.report["classes"]] == [False, False, True, True]
    assert [curve["label"] for curve in summary.report["roc"]] == ["ale", "milk"]
    assert [row["recall"] for row in summary.report["classes"][2:]] == [0, 0]
    one = summarize_single_label(probabilities[labels == 1], labels[labels == 1], NAMES)
    assert math.isnan(one.metrics["roc_auc"]) and one.report["roc"] == []
    json.dumps(one.report, allow_nan=False)


@pytest.mark.parametrize("summarize", [summarize_single_label, summarize_multi_label])
def test_nothing_at_all_is_undefined(summarize):
    labels = np.zeros((0,) if summarize is summarize_single_label else (0, 4))
    summary = summarize(np.zeros((0, 4)), labels, NAMES)
    assert all(math.isnan(value) for value in summary.metrics.values())
    json.dumps(summary.report, allow_nan=False)


def test_numbers_without_spread_have_no_correlation():
    for values, targets in (([1.0, 2.0], [3.0, 3.0]), ([], [])):
        summary = summarize_regression(np.array(values), np.array(targets))
        assert all(math.isnan(value) for value in summary.metrics.values())
        json.dumps(summary.report, allow_nan=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("spoiled", [[7], range(300)], ids=["one", "all"])
def test_an_output_that_is_not_finite_leaves_no_metric_and_a_report_of_the_others(single, several, spoiled, bad):
    ways = [
        (lambda *given: summarize_single_label(*given, NAMES), *single),
        (lambda *given: summarize_multi_label(*given, NAMES), *several),
        (summarize_regression, single[0][:, 0], single[1].astype(np.float32)),
    ]
    for summarize, outputs, truth in ways:
        outputs, kept = outputs.copy(), np.setdiff1d(np.arange(300), spoiled)
        outputs.reshape(300, -1)[spoiled, 0] = bad
        metrics, report = summarize_finite(summarize, outputs, truth)
        others = summarize(outputs[kept], truth[kept])
        assert list(metrics) == list(others.metrics) and all(map(math.isnan, metrics.values()))
        assert report == others.report | {"num_not_finite": len(spoiled)}
        assert report["num_examples"] == 300 - len(spoiled)
        json.dumps(report, allow_nan=False)


def test_where_all_are_finite_nothing_is_left_out(single):
    found = summarize_finite(lambda *given: summarize_single_label(*given, NAMES), *single)
    expected = summarize_single_label(*single, NAMES)
    assert found == (expected.metrics, expected.report | {"num_not_finite": 0})


def test_many_labels_have_curves_for_the_commonest_only():
    random = np.random.default_rng(4)
    labels = random.integers(0, 30, 3000)
    labels[labels < 5] = 29
    probabilities = random.dirichlet(np.ones(30), 3000)
    report = summarize_single_label(probabilities, labels, [str(n) for n in range(30)]).report
    assert len(report["classes"]) == 30 and len(report["roc"]) == 20
    assert "29" in [curve["label"] for curve in report["roc"]]
    assert max(len(curve["recall"]) for curve in report["precision_recall"]) <= CURVE_POINTS
