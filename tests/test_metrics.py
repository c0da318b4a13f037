"""Additive metrics on the host."""

import math

import numpy as np
import pytest

from jaxdp.metrics import LOSS, MetricSpec, Totals, undeclared_metric
from jaxdp.tasks.classification_metrics import MEAN_METRICS, SUMMARY_METRICS
from jaxdp.tasks.losses import ACCURACY, BITS_PER_BYTE, PERPLEXITY
from jaxdp.tasks.translation_scores import SCORE_METRICS


def test_means_are_of_all_sums_and_not_of_means():
    totals = Totals()
    totals.add({"loss": (10.0, 5.0), "accuracy": (2.0, 5.0)})
    totals.add({"loss": (1.0, 1.0), "accuracy": (1.0, 1.0)})
    assert totals.means() == {"loss": 11 / 6, "accuracy": 0.5}


def test_totals_go_on_counting_where_float32_stops():
    totals = Totals()
    for _ in range(3):
        totals.add({"loss": (np.float32(2**24), np.float32(2**24))})
    for _ in range(4):
        totals.add({"loss": (np.float32(1), np.float32(0))})
    assert totals.means()["loss"] * 3 * 2**24 == 3 * 2**24 + 4


def test_a_metric_without_weight_is_nan():
    totals = Totals()
    totals.add({"loss": (0.0, 0.0)})
    assert math.isnan(totals.means()["loss"])


def test_a_metric_may_be_missing_from_some_batches():
    totals = Totals()
    totals.add({"loss": (1.0, 1.0)})
    totals.add({"loss": (3.0, 1.0), "accuracy": (1.0, 4.0)})
    assert totals.means() == {"loss": 2.0, "accuracy": 0.25}


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("eval/loss", False),
        ("eval/perplexity", False),
        ("eval/bits_per_byte", False),
        ("loss", False),
        ("eval/accuracy", True),
        ("eval/bleu", True),
        ("losses/accuracy", True),
        ("eval/calibration_error", False),
        ("eval/root_mean_squared_error", False),
        ("eval/average_precision", True),
        ("eval/accuracy_loss", False),
        ("eval/error_correction", True),
        ("eval/wer", True),
    ],
)
def test_direction_of_a_metric_that_only_its_name_is_known_of(name, higher):
    spec = undeclared_metric(name)
    assert spec.higher_is_better is higher and spec.unit == ""
    assert name in (spec.full_name, spec.name)


def test_that_rule_agrees_with_every_declaration_of_the_built_in_tasks():
    """Runs of versions that recorded no declarations are ranked as they were."""
    specs = [LOSS, PERPLEXITY, ACCURACY, BITS_PER_BYTE, *SCORE_METRICS]
    for by_kind in (MEAN_METRICS, SUMMARY_METRICS):
        specs += [spec for metrics in by_kind.values() for spec in metrics]
    for spec in specs:
        assert undeclared_metric(spec.full_name).higher_is_better is spec.higher_is_better, spec


def test_a_declared_metric_has_a_full_name():
    assert MetricSpec("loss", "nats", False, group="train").full_name == "train/loss"
    assert MetricSpec("accuracy").full_name == "eval/accuracy"
