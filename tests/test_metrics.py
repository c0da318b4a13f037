"""Additive metrics on the host."""

import math

import numpy as np
import pytest

from jaxdp.errors import UserError
from jaxdp.metrics import Totals, higher_is_better


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
        ("eval/roc_auc", True),
        ("eval/exact_match", True),
        ("eval/chrf", True),
        ("eval/macro_f1", True),
        ("eval/accuracy_loss", False),
    ],
)
def test_direction_of_a_metric(name, higher):
    assert higher_is_better(name) is higher


def test_a_metric_without_a_direction_is_refused():
    with pytest.raises(UserError, match=r"eval\.metric='eval/entropy' does not say whether more of it is better"):
        higher_is_better("eval/entropy")
