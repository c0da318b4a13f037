"""Curves of a classifier over a split: calibration, ROC and precision-recall, as plain JSON values."""

import math
from typing import Any

import numpy as np

from jaxdp.json_files import nullify_non_finite

NUM_BINS = 15
"""Number of calibration bins of equal width, as in Guo et al. 2017."""

CURVE_POINTS = 200
"""Maximum number of points of a curve in a report; areas are those of the whole curve."""


def calibration(confidence: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    """Compares the confidence of predictions with their accuracy.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 2:
    expected calibration error over bins of equal width.

    Args:
        confidence: [n], from 0 to 1.
        is_right: [n] bool.

    Returns:
        {"error": the mean distance, "bins": [{"confidence", "accuracy", "count"}] for
        each bin that is not empty}.
    """
    number = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(number, minlength=NUM_BINS)
    kept = counts > 0
    mean_confidence = np.bincount(number, confidence, NUM_BINS)[kept] / counts[kept]
    accuracy = np.bincount(number, is_right, NUM_BINS)[kept] / counts[kept]
    error = (
        float((np.abs(mean_confidence - accuracy) * counts[kept]).sum() / counts.sum()) if counts.any() else math.nan
    )
    bins = [
        {"confidence": mean, "accuracy": share, "count": count}
        for mean, share, count in zip(mean_confidence.tolist(), accuracy.tolist(), counts[kept].tolist(), strict=True)
    ]
    return {"error": nullify_non_finite(float(error)), "bins": bins}


def roc_points(name: str, is_true: np.ndarray, probabilities: np.ndarray, row: dict[str, Any]) -> dict[str, Any]:
    """Returns at most CURVE_POINTS points of the ROC curve of a label, and the area under the whole curve.

    Args:
        name: Name of the label.
        is_true: [num_examples] bool.
        probabilities: [num_examples].
        row: Row of the label in the table of classes.
    """
    from sklearn.metrics import roc_curve

    false_rate, true_rate, _ = roc_curve(is_true, probabilities, drop_intermediate=True)
    kept = spaced_indices(len(false_rate))
    return {
        "label": name,
        "auc": row["roc_auc"],
        "false_positive_rate": false_rate[kept].tolist(),
        "true_positive_rate": true_rate[kept].tolist(),
    }


def precision_recall_points(
    name: str, is_true: np.ndarray, probabilities: np.ndarray, row: dict[str, Any]
) -> dict[str, Any]:
    """Returns at most CURVE_POINTS points of the precision-recall curve of a label, and its average precision.

    Args:
        name: Name of the label.
        is_true: [num_examples] bool.
        probabilities: [num_examples].
        row: Row of the label in the table of classes.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_true, probabilities, drop_intermediate=True)
    kept = spaced_indices(len(recall))
    return {
        "label": name,
        "average_precision": row["average_precision"],
        "recall": recall[kept].tolist(),
        "precision": precision[kept].tolist(),
    }


def spaced_indices(num_points: int) -> np.ndarray:
    """Returns the indices of at most CURVE_POINTS points: the first, the last, and evenly spaced ones between them."""
    return np.unique(np.linspace(0, max(num_points - 1, 0), min(num_points, CURVE_POINTS)).round().astype(np.int64))
