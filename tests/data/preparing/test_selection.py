"""Selection of the validation split: exact shares, of whole documents and of each label, a function of the seed alone."""

import numpy as np
import pytest

from jaxdp.data.preparing.scan import DataChanged, kept_records, load_scan, scan_parts
from jaxdp.data.preparing.selection import Selection, select_random, select_stratified
from jaxdp.data.reading.records import Columns, Part, Record
from jaxdp.errors import UserError

LABELLED = Columns(("text",), ("label",))


def labelled(name, *labels):
    records = [
        Record({"text": f"{name}{number}", "label": label}, f"{name}, line {number + 1}")
        for number, label in enumerate(labels)
    ]
    return Part(name, 0, "", lambda: iter(records))


def stratified(seed=0):
    return Selection("stratified", seed, lambda record: tuple(record.fields["label"]))


def splits_of(scan, parts):
    return [
        [excerpt.record.fields for excerpt in kept_records(scan, parts, None, held_out=held_out)]
        for held_out in (False, True)
    ]


@pytest.mark.parametrize("number", [2, 3, 10, 1001])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.99])
def test_a_random_share_is_exact_and_never_nothing_or_all(number, fraction):
    chosen = select_random(number, fraction, seed=3)
    assert len(chosen) == min(max(round(number * fraction + 1e-9), 1), number - 1)
    assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < number
    assert chosen.tolist() == select_random(number, fraction, seed=3).tolist()


def test_the_seed_decides():
    chosen = [tuple(select_random(1000, 0.1, seed)) for seed in range(5)]
    assert len(set(chosen)) == 5
    spread = np.histogram(chosen[0], bins=10, range=(0, 1000))[0]
    assert spread.min() >= 3  # over the whole data, not its end


def test_each_label_has_its_share_even_where_the_data_is_sorted():
    parts = [labelled("a", *"x" * 50, *"y" * 30), labelled("b", *"y" * 10, "z", "z", "w")]
    scan = scan_parts(parts, None, LABELLED, (), 0.1, stratified())
    trained, held_out = splits_of(scan, parts)
    counts = {label: sum(fields["label"] == label for fields in held_out) for label in "xyzw"}
    assert counts == {"x": 5, "y": 4, "z": 1, "w": 0}  # what is there once is learned
    assert len(trained) + len(held_out) == 93
    texts = {fields["text"] for fields in trained} | {fields["text"] for fields in held_out}
    assert len(texts) == 93
    assert scan.train_characters == sum(len(fields["text"]) for fields in trained)


def test_records_that_cleaning_drops_count_for_no_share():
    parts = [labelled("a", *"x" * 20, *"y" * 20)]
    for fields in (record.fields for record in list(parts[0].read())[:18]):
        fields["text"] = ""
    scan = scan_parts(parts, None, LABELLED, ("min_chars:1",), 0.5, stratified())
    trained, held_out = splits_of(scan, parts)
    assert [sum(fields["label"] == "x" for fields in split) for split in (trained, held_out)] == [1, 1]
    assert [sum(fields["label"] == "y" for fields in split) for split in (trained, held_out)] == [10, 10]


def test_several_labels_of_a_record_each_have_a_share_and_none_is_held_out_alone():
    random = np.random.default_rng(0)
    labels = [
        "".join(name for name, rate in zip("abcd", (0.5, 0.2, 0.05, 0.02), strict=True) if random.random() < rate)
        for _ in range(400)
    ]
    parts = [labelled("a", *labels, "ae", "af")]  # e and f occur once, together with a
    scan = scan_parts(parts, None, LABELLED, (), 0.1, stratified())
    trained, held_out = splits_of(scan, parts)
    for name in "abcdef":
        number = sum(name in fields["label"] for fields in (*trained, *held_out))
        found = sum(name in fields["label"] for fields in held_out)
        assert found < number and found >= (number > 1), name
        assert abs(found - 0.1 * number) <= max(1, 0.04 * number), name
    without = sum(not label for label in labels)
    assert sum(not fields["label"] for fields in held_out) == int(0.1 * without + 0.5)


def test_a_label_stays_in_the_training_split_even_if_a_share_is_missed():
    # a is on two records; each of them has another label that is nowhere else.
    scan = scan_parts(parts := [labelled("p", "ab", "ac", "d", "d")], None, LABELLED, (), 0.5, stratified())
    trained, held_out = splits_of(scan, parts)
    assert [fields["label"] for fields in held_out] == ["d"]
    assert {letter for fields in trained for letter in fields["label"]} == set("abcd")


def test_nothing_to_choose_from_is_refused_with_what_serves():
    with pytest.raises(UserError, match=r"has 1: set data\.eval_selection=tail"):
        scan_parts([labelled("a", "x")], None, LABELLED, (), 0.1, Selection("random", 0))
    with pytest.raises(UserError, match=r"no label on two records.*data\.eval_selection=random"):
        scan_parts([labelled("a", *"xyz")], None, LABELLED, (), 0.1, stratified())
    with pytest.raises(UserError, match="out of range"):
        scan_parts([labelled("a", *"xx")], None, LABELLED, (), 1.5, Selection("random", 0))


def test_documents_in_pieces_are_held_out_whole():
    def read():
        for number in range(60):
            yield Record({"text": f"{number // 3}: {number % 3}"}, f"a, line {number + 1}", continues=number % 3 < 2)

    parts = [Part("a", 0, "", read)]
    scan = scan_parts(parts, None, Columns(("text",)), (), 0.25, Selection("random", 1))
    trained, held_out = splits_of(scan, parts)
    assert len(held_out) == 15
    documents = [{fields["text"].partition(":")[0] for fields in split} for split in (trained, held_out)]
    assert not documents[0] & documents[1] and len(documents[1]) == 5


def test_only_parts_with_records_of_the_split_are_read_and_they_are_compared():
    parts = [labelled("a", *"xy" * 10), labelled("b", *"xy" * 10)]
    scan = scan_parts(parts, None, LABELLED, (), 0.05, stratified())
    _, held_out = splits_of(scan, parts)
    assert len(held_out) == 2
    changed = [labelled("a", *"xy" * 10), labelled("b", *"xy" * 9, "x", "x")]
    with pytest.raises(DataChanged, match="b changed"):
        list(kept_records(scan, changed, None, held_out=False))


def test_round_trip_and_key(tmp_path):
    parts = [labelled("a", *"xy" * 10)]
    scans = [scan_parts(parts, None, LABELLED, (), 0.3, stratified(seed)) for seed in (0, 1)]
    scans[0].save(tmp_path)
    assert load_scan(tmp_path) == scans[0]
    tail = scan_parts(parts, None, LABELLED, (), 0.3)
    assert tail.split_key == tail.split
    assert len({scans[0].split_key, scans[1].split_key, tail.split_key}) == 3


def test_held_out_parts_of_their_own_leave_nothing_to_select():
    train, evaluation = [labelled("a", *"xy")], [labelled("b", *"xy")]
    scan = scan_parts(train, evaluation, LABELLED, (), 0.3, stratified())
    assert scan.held_out is None
    assert [len(list(kept_records(scan, train, evaluation, held_out=held_out))) for held_out in (False, True)] == [2, 2]


def test_a_label_that_cannot_be_read_is_named_with_its_record():
    def classes(record):
        raise UserError("the label is empty")

    with pytest.raises(UserError, match="a, line 1: the label is empty"):
        scan_parts([labelled("a", "x", "x")], None, LABELLED, (), 0.3, Selection("stratified", 0, classes))


def test_a_large_class_is_sampled_without_order():
    owners = np.arange(10_000)
    held_out = select_stratified(owners, np.zeros(10_000, int), ["x"], 10_000, 0.1, seed=0)
    assert held_out.sum() == 1000
    assert np.abs(np.histogram(np.flatnonzero(held_out), bins=10)[0] - 100).max() < 40
