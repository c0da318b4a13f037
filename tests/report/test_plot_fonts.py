"""Fonts of plots: no warning of Matplotlib reaches the terminal, one sentence says what cannot be drawn."""

import warnings

import numpy as np
import pytest

from jaxdp.report import plot_fonts
from jaxdp.report.evaluation_plots import plot_evaluation
from jaxdp.report.plot_fonts import fonts_for, missing_characters
from jaxdp.tasks.classification_metrics import summarize_multi_label, summarize_single_label


@pytest.fixture
def told(monkeypatch):
    sentences = []
    monkeypatch.setattr(plot_fonts, "print_status", sentences.append)
    monkeypatch.setattr(plot_fonts, "FALLBACKS", ())  # as on a machine without further fonts
    return sentences


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("好", "坏 的"),
            "no installed font has 坏 (U+574F), 好 (U+597D), 的 (U+7684): rendered as boxes; install Noto Sans CJK",
        ),
        (("हिन्दी", "ελληνικά"), "no installed font has "),
        (("übel", "добро"), None),
    ],
)
def test_labels_in_any_script_are_drawn_without_warnings(kind, names, sentence, told, tmp_path):
    labels = np.arange(20) % 2
    probabilities = np.stack([1 - 0.1 * labels, 0.1 * labels], axis=1)
    summarize = summarize_single_label if kind == "single_label" else summarize_multi_label
    truth = labels if kind == "single_label" else np.eye(2)[labels]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_evaluation(summarize(probabilities, truth, names).report, tmp_path / "a.png", "run")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len(told) == (sentence is not None)
    if sentence:
        assert told[0].startswith(sentence)


def test_fonts_of_other_scripts_are_used_where_they_are_installed(monkeypatch, told):
    import matplotlib

    monkeypatch.setattr(plot_fonts, "FALLBACKS", ("STIXGeneral", "No Such Font"))
    with fonts_for(["a"]):
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "STIXGeneral"]
    assert told == []


def test_missing_characters():
    assert missing_characters(["ab好", "x"], []) == ["好"]
    assert missing_characters(["a b\n\t\x07", "好"], ["no such file"]) == ["好"]
