"""BLEU and chrF against their definitions, written out."""

import json
import math
from collections import Counter

import pytest

from jaxdp.tasks.translation_scores import score_texts

REFERENCES = ["the cat sat on the mat today", "a small dog ran away", "no one was there"]
TEXTS = ["the cat sat on mat today", "a small dog ran away", "nobody was over there now"]


def grams(items, order):
    return Counter(tuple(items[i : i + order]) for i in range(len(items) - order + 1))


def bleu(texts, references):
    """Papineni et al. 2002 over blank-separated words."""
    log_precision = 0.0
    for order in (1, 2, 3, 4):
        matched = total = 0
        for text, reference in zip(texts, references, strict=True):
            ours = grams(text.split(), order)
            matched += (ours & grams(reference.split(), order)).total()
            total += ours.total()
        log_precision += math.log(matched / total) / 4
    ours, theirs = (sum(len(text.split()) for text in side) for side in (texts, references))
    return 100 * math.exp(min(0.0, 1 - theirs / ours) + log_precision)


def chrf(texts, references):
    """Popović 2015: characters without blanks, orders 1 to 6, recall counts twice."""
    scores = []
    for order in range(1, 7):
        matched = ours_total = theirs_total = 0
        for text, reference in zip(texts, references, strict=True):
            ours, theirs = (grams(side.replace(" ", ""), order) for side in (text, reference))
            matched += (ours & theirs).total()
            ours_total += ours.total()
            theirs_total += theirs.total()
        scores.append((matched / ours_total, matched / theirs_total))
    precision, recall = (sum(side) / 6 for side in zip(*scores, strict=True))
    return 100 * 5 * precision * recall / (4 * precision + recall)


def test_scores_are_their_definitions():
    summary = score_texts(TEXTS, REFERENCES, "none")
    assert summary.metrics == {
        "bleu": pytest.approx(bleu(TEXTS, REFERENCES)),
        "chrf": pytest.approx(chrf(TEXTS, REFERENCES)),
        "exact_match": pytest.approx(1 / 3),
    }


def test_a_report_is_signed_json():
    report = score_texts(TEXTS, REFERENCES, "13a").report
    assert report["num_examples"] == 3
    assert "tok:13a" in report["bleu"]["signature"] and "version:" in report["chrf"]["signature"]
    assert len(report["bleu"]["precisions"]) == 4 and 0 < report["bleu"]["brevity_penalty"] <= 1
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_perfect_texts_and_empty_ones():
    assert score_texts(REFERENCES, REFERENCES, "13a").metrics == {
        "bleu": pytest.approx(100), "chrf": pytest.approx(100), "exact_match": 1.0,
    }  # fmt: skip
    assert score_texts(["", ""], REFERENCES[:2], "13a").metrics == {"bleu": 0, "chrf": 0, "exact_match": 0}
