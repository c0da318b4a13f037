"""Classification and regression metrics of a whole split: scores, tables and curves, as plain JSON values.

scikit-learn computes them in float64 on the host, from the probabilities of all
examples at once, so nothing depends on batches or devices. It is imported inside
functions because its import takes a second.

Undefined values, such as the area under the curve of a label that the split lacks,
are NaN among the metrics and null in the report. So is every metric of a split with
an output that is not finite; see `summarize_finite`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdp.json_files import nullify_non_finite
from jaxdp.metrics import LOSS, MetricSpec
from jaxdp.tasks.classification_curves import (
    calibration,
    precision_recall_points,
    roc_points,
    spaced_indices,
)
from jaxdp.tasks.losses import ACCURACY
from jaxdp.tasks.task import Summary

THRESHOLD = 0.5
"""multi_label: a label is predicted if its probability is above this value."""

CURVES = 20
"""Maximum number of labels with curves in a report: those with most examples."""

MEAN_METRICS = {
    "single_label": (ACCURACY,),
    "multi_label": (dataclasses.replace(ACCURACY, description="share of examples with all labels correct"),),
    "regression": (
        dataclasses.replace(LOSS, unit="squared deviations", description="mean squared error, standardised"),
        MetricSpec("mean_absolute_error", "label units", False, "mean absolute error"),
        MetricSpec("root_mean_squared_error", "label units", False, "root of the mean squared error"),
    ),
}
"""Metrics of `loss` and `derived_metrics`, for each kind of label."""

_CLASSIFICATION = (
    MetricSpec("macro_f1", "", True, "mean F1 of the labels that occur"),
    MetricSpec("micro_f1", "", True, "F1 over all decisions"),
    MetricSpec("weighted_f1", "", True, "mean F1 of the labels, weighted by support"),
    MetricSpec("macro_precision", "", True, "mean precision of the labels that occur"),
    MetricSpec("macro_recall", "", True, "mean recall of the labels that occur"),
    MetricSpec("roc_auc", "", True, "mean area under the ROC curve of the labels that occur"),
    MetricSpec("average_precision", "", True, "mean average precision of the labels that occur"),
    MetricSpec("calibration_error", "", False, "expected calibration error"),
)

SUMMARY_METRICS = {
    "single_label": _CLASSIFICATION,
    "multi_label": _CLASSIFICATION,
    "regression": (
        MetricSpec("r2", "", True, "explained share of the variance"),
        MetricSpec("correlation", "", True, "Pearson correlation"),
    ),
}
"""Metrics of `summarize`, for each kind of label."""


def summarize_finite(
    summarize: Callable[[np.ndarray, np.ndarray], Summary], outputs: np.ndarray, truth: np.ndarray
) -> Summary:
    """Summarizes a split whose outputs may not be finite.

    If any output is not finite, all metrics are NaN, as the mean loss is; otherwise such
    a model could rank best by its other examples. The report covers the finite examples
    and counts the others in `num_not_finite`.

    Args:
        summarize: function (outputs, truth) -> Summary of examples with finite outputs.
        outputs: [num_examples] or [num_examples, num_labels].
        truth: [num_examples, ...].
    """
    is_finite = np.isfinite(outputs).all(axis=tuple(range(1, outputs.ndim)))
    metrics, report = summarize(outputs[is_finite], truth[is_finite])
    num_not_finite = int((~is_finite).sum())
    if num_not_finite:
        metrics = dict.fromkeys(metrics, math.nan)
    return Summary(metrics, report | {"num_not_finite": num_not_finite})


def summarize_single_label(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Summary:
    """Summarizes a split with one label an example.

    Args:
        probabilities: [num_examples, num_labels], each row a distribution.
        labels: [num_examples] integers.
        names: names of the labels.

    Returns:
        Metrics: `SUMMARY_METRICS["single_label"]`; macro averages, areas and average
        precisions are means over the labels that occur in the split, each against all
        others. Report: `kind`, `labels`, `absent_labels` (labels that do not occur),
        `num_examples`, `accuracy`, `averages`, `classes`, `confusion_matrix` (rows:
        true, columns: predicted), `roc`, `precision_recall`, `calibration`.
    """
    from sklearn.metrics import confusion_matrix

    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    predicted = probabilities.argmax(axis=1)
    numbers = np.arange(len(names))
    confidence, is_right = probabilities.max(axis=1), predicted == labels
    table = confusion_matrix(labels, predicted, labels=numbers) if len(labels) else np.zeros((len(names),) * 2, int)
    return _summary(
        "single_label",
        names,
        is_true=labels[:, None] == numbers,
        is_given=predicted[:, None] == numbers,
        probabilities=probabilities,
        accuracy=_mean(is_right),
        calibration=calibration(confidence, is_right),
        confusion=table.tolist(),
    )


def summarize_multi_label(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Summary:
    """Summarizes a split with any number of labels an example.

    Args:
        probabilities: [num_examples, num_labels], independent of each other.
        labels: [num_examples, num_labels], 1 where an example has the label.
        names: names of the labels.

    Returns:
        As `summarize_single_label`; accuracy is the share of examples with all labels
        correct, calibration counts every label of every example as one prediction, and
        `confusion_matrix` has one [[true negatives, false positives], [false negatives,
        true positives]] a label.
    """
    from sklearn.metrics import multilabel_confusion_matrix

    probabilities = np.asarray(probabilities, np.float64)
    is_true, is_given = np.asarray(labels) > 0, probabilities > THRESHOLD
    confusion = multilabel_confusion_matrix(is_true, is_given) if len(is_true) else np.zeros((len(names), 2, 2), int)
    return _summary(
        "multi_label",
        names,
        is_true=is_true,
        is_given=is_given,
        probabilities=probabilities,
        accuracy=_mean((is_true == is_given).all(axis=1)),
        calibration=calibration(probabilities.ravel(), is_true.ravel()),
        confusion=confusion.tolist(),
    )


def summarize_regression(values: np.ndarray, targets: np.ndarray) -> Summary:
    """Summarizes a split with numeric targets.

    Args:
        values: [num_examples], predicted.
        targets: [num_examples], true.

    Returns:
        Metrics: `r2`, the explained share of the variance, and `correlation` (Pearson).
        Report: the same with both errors, and up to CURVE_POINTS `pairs` of [true,
        predicted], evenly spaced in the order of the true values.
    """
    from sklearn.metrics import r2_score

    values, targets = np.asarray(values, np.float64), np.asarray(targets, np.float64)
    errors, spread = values - targets, targets - targets.mean() if len(targets) else targets
    variance = float((spread**2).sum())
    moved = values - values.mean() if len(values) else values
    product = math.sqrt(variance) * math.sqrt(float((moved**2).sum()))  # the product of the sums may overflow
    metrics = {
        "r2": float(r2_score(targets, values)) if variance > 0 else math.nan,
        "correlation": float((moved * spread).sum()) / product if product > 0 else math.nan,
    }
    order = np.argsort(targets, kind="stable")
    order = order[spaced_indices(len(order))]
    report = {
        "kind": "regression",
        "num_examples": len(targets),
        "mean_absolute_error": nullify_non_finite(_mean(np.abs(errors))),
        "root_mean_squared_error": nullify_non_finite(math.sqrt(_mean(errors**2))),
        **{name: nullify_non_finite(float(value)) for name, value in metrics.items()},
        "pairs": np.stack([targets[order], values[order]], axis=1).tolist(),
    }
    return Summary(metrics, report)


def _summary(
    kind: str,
    names: Sequence[str],
    *,
    is_true: np.ndarray,
    is_given: np.ndarray,
    probabilities: np.ndarray,
    accuracy: float,
    calibration: dict[str, Any],
    confusion: list,
) -> Summary:
    """Builds the part of a summary that both kinds of labels share, from booleans `[num_examples, num_labels]`."""
    classes = _classes(names, is_true, is_given, probabilities)
    averages = _averages(is_true, is_given)
    by_support = sorted(range(len(names)), key=lambda number: -classes[number]["support"])[:CURVES]
    shown = [number for number in sorted(by_support) if 0 < classes[number]["support"] < len(is_true)]
    metrics = {
        "macro_f1": averages["macro"]["f1"],
        "micro_f1": averages["micro"]["f1"],
        "weighted_f1": averages["weighted"]["f1"],
        "macro_precision": averages["macro"]["precision"],
        "macro_recall": averages["macro"]["recall"],
        "roc_auc": _mean_defined([row["roc_auc"] for row in classes]),
        "average_precision": _mean_defined([row["average_precision"] for row in classes]),
        "calibration_error": math.nan if calibration["error"] is None else calibration["error"],
    }
    report = {
        "kind": kind,
        "labels": list(names),
        "absent_labels": [name for name, row in zip(names, classes, strict=True) if not row["support"]],
        "num_examples": len(is_true),
        "accuracy": nullify_non_finite(float(accuracy)),
        "averages": {
            name: {key: nullify_non_finite(float(value)) for key, value in row.items()}
            for name, row in averages.items()
        },
        "classes": classes,
        "confusion_matrix": confusion,
        "roc": [roc_points(names[n], is_true[:, n], probabilities[:, n], classes[n]) for n in shown],
        "precision_recall": [
            precision_recall_points(names[n], is_true[:, n], probabilities[:, n], classes[n]) for n in shown
        ],
        "calibration": calibration,
    }
    return Summary(metrics, report)


def _report(is_true: np.ndarray, is_given: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns scikit-learn's classification report: precision, recall, F1 and support by label number and average."""
    from sklearn.metrics import classification_report

    names = list(map(str, labels.tolist()))
    options: dict[str, Any] = {"output_dict": True, "zero_division": 0}  # it has no annotations to infer them from
    found = classification_report(is_true, is_given, labels=labels, target_names=names, **options)
    assert isinstance(found, dict), "output_dict=True returns one"
    return found


def _averages(is_true: np.ndarray, is_given: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns precision, recall and F1 by average; NaN where no example or no label counts."""
    undefined: dict[str, float] = dict.fromkeys(("precision", "recall", "f1-score"), math.nan)
    rows = dict.fromkeys(("macro", "micro", "weighted"), undefined)
    if len(is_true):
        whole = _report(is_true, is_given, np.arange(is_true.shape[1]))
        rows |= {"micro": whole["micro avg"], "weighted": whole["weighted avg"]}
    if len(
        occurring := np.flatnonzero(is_true.any(axis=0))
    ):  # a label that the split lacks says nothing about the model
        rows["macro"] = _report(is_true, is_given, occurring)["macro avg"]
    return {
        name: {"precision": row["precision"], "recall": row["recall"], "f1": row["f1-score"]}
        for name, row in rows.items()
    }


def _classes(
    names: Sequence[str], is_true: np.ndarray, is_given: np.ndarray, probabilities: np.ndarray
) -> list[dict[str, Any]]:
    """Returns a row for each label: {"label", "precision", "recall", "f1", "support", "roc_auc", "average_precision"}.

    The precision of a label that is never predicted, and the recall of one that never occurs, are 0.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    report = _report(is_true, is_given, np.arange(len(names))) if len(is_true) else {}
    rows = []
    for number, name in enumerate(names):
        scores = report.get(str(number), {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0})
        support = int(scores["support"])
        row = {"label": name, "precision": scores["precision"], "recall": scores["recall"], "f1": scores["f1-score"]}
        row |= {"support": support, "roc_auc": None, "average_precision": None}
        if 0 < support < len(is_true):
            row["roc_auc"] = float(roc_auc_score(is_true[:, number], probabilities[:, number]))
            row["average_precision"] = float(average_precision_score(is_true[:, number], probabilities[:, number]))
        rows.append(row)
    return rows


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _mean_defined(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else math.nan
