"""Labels: how they are read, counted, numbered and kept."""

import json

import numpy as np
import pytest

from jaxdp.data.labels import (
    LabelCensus,
    Labels,
    label_number,
    label_text,
    label_texts,
    load_labels,
)
from jaxdp.errors import UserError


def census(kind, values, separator=","):
    counted = LabelCensus(kind, separator)
    for value in values:
        counted.add(value)
    return counted.labels()


def test_labels_are_numbered_by_name_and_counted():
    labels = census("single_label", ["tea", " milk ", "tea", "Ale"])
    assert labels == Labels(kind="single_label", num_records=4, names=("Ale", "milk", "tea"), counts=(1, 1, 2))
    assert [labels.number(name) for name in labels.names] == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([10, 9, -1, 10], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        ([True, False, True], ("false", "true")),
        ([10**400, 9, 2**70, 10**400], ("9", str(2**70), str(10**400))),
        (["9" * 5000, "10", "9"], ("10", "9", "9" * 5000)),  # more digits than Python reads as a number: texts
    ],
)
def test_whole_numbers_are_in_order_of_size(values, names):
    assert census("single_label", values).names == names


def test_several_labels_of_a_record():
    labels = census("multi_label", ["a, b", "", ["b", "c"], "b,b"])
    assert (labels.names, labels.counts, labels.num_records) == (("a", "b", "c"), (1, 3, 1), 4)
    assert label_texts("x| y |", "|") == ("x", "y")
    assert label_texts(7, ",") == ("7",)


def test_numbers_have_a_mean_and_a_spread():
    values = 1e6 + np.random.default_rng(0).normal(size=500)
    labels = census("regression", values.tolist())
    np.testing.assert_allclose(labels.mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(labels.deviation, values.std(), rtol=1e-9)
    assert labels.names == () and labels.num_records == 500


def test_an_unknown_label_is_refused_with_the_known_ones():
    labels = census("single_label", ["a", "b"])
    with pytest.raises(UserError, match=r"label 'c' is on no record of the training split, which has 'a', 'b':"):
        labels.number("c")
    with pytest.raises(UserError, match=r"data\.eval_selection=stratified holds out no label that training lacks"):
        labels.number("c")
    many = census("single_label", range(20))
    with pytest.raises(UserError, match=r"'11' and 8 more:"):
        many.number("x")


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (lambda: label_text("  "), "the label is empty"),
        (lambda: label_text(["a"]), r"the label is the list \['a'\].* classification.kind=multi_label"),
        (lambda: label_text(1.5), r"the label is 1\.5, expected a string.* classification.kind=regression"),
        (lambda: label_texts(float("nan"), ","), "the label is nan, expected a string"),
        (lambda: label_number("high"), "the label is 'high', expected a finite number"),
        (lambda: label_number(float("inf")), "expected a finite number"),
        (lambda: label_number(float("nan")), "the label is nan, expected a finite number"),
        (lambda: label_number(10**5000), "the label is a whole number of 16610 bits, expected a finite number"),
        (lambda: label_number("1" * 400), r"the label is '1+\.\.\. \(402 characters\), expected a finite number"),
        (lambda: label_number(None), "the label is None, expected a finite number"),
        (lambda: census("single_label", ["a", "a"]), "The 2 training records have 'a', expected 2 or more"),
        (lambda: census("multi_label", ["", ""]), "The 2 training records have no label, expected 2 or more"),
        (lambda: census("multi_label", ["a", ""]), "The 2 training records have 'a', expected 2 or more"),
        (
            lambda: census("single_label", ["a"]),
            r"sorted by label data\.eval_selection=stratified trains on every label",
        ),
        (lambda: census("single_label", []), "The 0 training records have no label"),
        (lambda: census("regression", [1e200, -1e200]), "labels of the 2 training records are too large for float64"),
        (lambda: census("regression", [1.7e308, -1.7e308]), "are too large for float64"),
        (lambda: census("regression", ["2", 2.0]), "All 2 training records have the same number"),
    ],
)
def test_what_cannot_be_learned_is_refused(read, problem):
    with pytest.raises(UserError, match=problem):
        read()


@pytest.mark.parametrize("labels", [
    Labels(kind="single_label", num_records=3, names=("ä", "b c"), counts=(1, 2)),
    Labels(kind="regression", num_records=3, mean=0.1, deviation=2.5),
])  # fmt: skip
def test_labels_come_back_from_their_file(labels, tmp_path):
    labels.save(tmp_path / "labels.json")
    assert load_labels(tmp_path / "labels.json") == labels
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]


def test_a_file_that_holds_no_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"labels\.json cannot be read \(No such file"):
        load_labels(tmp_path / "labels.json")
    for content in ("[", "[]", "{}", '{"names": [], "counts": [], "other": 1}'):
        (tmp_path / "labels.json").write_text(content)
        with pytest.raises(UserError, match=r"labels\.json (is not a file of labels|is not JSON|holds a JSON list)"):
            load_labels(tmp_path / "labels.json")


@pytest.mark.parametrize("change", [
    {"kind": "x"}, {"kind": ["single_label"]}, {"names": ["a", "a"]}, {"names": ["a", 3]}, {"names": "ab", "counts": [1]},
    {"names": ["a"], "counts": [1]}, {"counts": [1, -1]}, {"counts": [1, "1"]}, {"num_records": 1.5}, {"deviation": 0.0},
    {"mean": "0"}, {"mean": float("nan")}, {"deviation": 10**400}, {"names": {"a": 1}}, {"counts": None},
])  # fmt: skip
def test_labels_of_odd_types_are_refused(tmp_path, change):
    path = tmp_path / "labels.json"
    Labels(kind="single_label", num_records=3, names=("a", "b"), counts=(1, 2)).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"labels\.json is not a file of labels"):
        load_labels(path)
