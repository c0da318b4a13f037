"""A scan counts, fingerprints and splits; what it says is kept is what comes back."""

import itertools

import pytest

from jaxdp.data.preparing.scan import DataChanged, kept_records, load_scan, scan_parts
from jaxdp.data.reading.records import Columns, Part, Record
from jaxdp.errors import UserError

TEXT = Columns(("text",))


def part(name, *texts, continues=()):
    def read():
        for number, text in enumerate(texts):
            yield Record({"text": text}, f"{name}, line {number + 1}", number in continues)

    return Part(name, 0, "", read)


def texts_of(scan, train, evaluation=None):
    return [
        [
            (excerpt.record.fields["text"][excerpt.begin : excerpt.finish], excerpt.continues)
            for excerpt in kept_records(scan, train, evaluation, held_out=held_out)
        ]
        for held_out in (False, True)
    ]


def test_several_files_are_split_between_two():
    parts = [part("a", "x" * 60), part("b", "y" * 30), part("c", "z" * 5, "w" * 5)]
    scan = scan_parts(parts, None, TEXT, (), 0.1)
    assert texts_of(scan, parts) == [[("x" * 60, False), ("y" * 30, False)], [("z" * 5, False), ("w" * 5, False)]]
    assert (scan.num_characters, scan.train_characters, scan.part_records) == (100, 90, (1, 1, 2))


def test_one_file_is_split_between_two_records():
    parts = [part("a", "x" * 50, "y" * 25, "z" * 25)]
    scan = scan_parts(parts, None, TEXT, (), 0.25)
    assert texts_of(scan, parts) == [[("x" * 50, False), ("y" * 25, False)], [("z" * 25, False)]]
    assert scan.train_characters == 75


def test_one_document_is_cut_at_a_character_even_in_pieces():
    parts = [part("a", "0123", "4567", "89", continues=(0, 1))]
    scan = scan_parts(parts, None, TEXT, (), 0.4)
    assert texts_of(scan, parts) == [[("0123", True), ("45", False)], [("67", True), ("89", False)]]
    assert scan.train_characters == 6


def test_held_out_parts_of_their_own_are_not_split():
    train, evaluation = [part("a", "one", "two")], [part("b", "three")]
    scan = scan_parts(train, evaluation, TEXT, (), 0.1)
    assert texts_of(scan, train, evaluation) == [[("one", False), ("two", False)], [("three", False)]]
    assert scan.split == (1, 0, 0) and scan.train_characters == 6


def test_what_cleaning_drops_is_in_neither_split():
    parts = [part("a", "same", "long enough", "same", "x"), part("b", "same", "other text")]
    scan = scan_parts(parts, None, TEXT, ("deduplicate", "min_chars:2"), 0.4)
    assert texts_of(scan, parts) == [[("same", False), ("long enough", False)], [("other text", False)]]
    assert [(step["step"], step["seen"], step["dropped"]) for step in scan.cleaned] == [
        ("deduplicate", 6, 2), ("min_chars:2", 4, 1)
    ]  # fmt: skip
    assert scan.num_characters == 25


def test_the_cut_counts_in_cleaned_text():
    parts = [part("a", "a  b  c  d  e")]  # "a b c d e" once cleaned
    scan = scan_parts(parts, None, TEXT, ("whitespace",), 0.5)
    assert scan.num_characters == 9 and scan.split == (0, 0, 4)


@pytest.mark.parametrize("change", ["text", "name", "order", "border"])
def test_the_fingerprint_sees_every_change(change):
    first = [part("a", "one", "two"), part("b", "three")]
    second = {
        "text": [part("a", "one", "twp"), part("b", "three")],
        "name": [part("a", "one", "two"), part("c", "three")],
        "order": [part("a", "two", "one"), part("b", "three")],
        "border": [part("a", "onet", "wo"), part("b", "three")],
    }[change]
    scans = [scan_parts(parts, None, TEXT, (), 0.5).fingerprint for parts in (first, first, second)]
    assert scans[0] == scans[1] != scans[2]


def test_round_trip_through_the_cache(tmp_path):
    parts = [part("a", "same", "same", "x" * 30)]
    scan = scan_parts(parts, None, TEXT, ("deduplicate", "lowercase"), 0.5)
    scan.save(tmp_path)
    assert load_scan(tmp_path) == scan


def test_every_record_is_in_exactly_one_split():
    parts = [part(name, *("t" * n for n in sizes)) for name, sizes in (("a", (1, 2, 3)), ("b", (4,)), ("c", (5, 6)))]
    for fraction in (0.1, 0.3, 0.5, 0.9):
        scan = scan_parts(parts, None, TEXT, (), fraction)
        trained, held_out = texts_of(scan, parts)
        assert [len(text) for text, _ in itertools.chain(trained, held_out)] == [1, 2, 3, 4, 5, 6]
        assert trained and held_out


def test_one_record_of_two_columns_cannot_be_cut():
    pair = Part("a", 0, "", lambda: iter([Record({"source": "abcdef", "target": "ghijkl"}, "a, line 1")]))
    with pytest.raises(UserError, match=r"data\.eval_path"):
        scan_parts([pair], None, Columns(("source", "target")), (), 0.3)


def test_a_part_that_is_not_as_scanned_is_refused():
    scanned = [part("a", "aaaa", "bb"), part("b", "cc")]
    scan = scan_parts(scanned, None, TEXT, (), 0.3)
    assert texts_of(scan, scanned) == [[("aaaa", False), ("bb", False)], [("cc", False)]]
    for changed in (part("a", "aaaa", "bX"), part("a", "aaaa"), part("a", "aaaa", "bb", "c")):
        with pytest.raises(DataChanged, match="data: a changed while it was being prepared"):
            list(kept_records(scan, [changed, scanned[1]], None, held_out=False))
        assert (
            len(list(kept_records(scan, [changed, scanned[1]], None, held_out=True))) == 1
        )  # which is of the other part


def test_more_records_than_the_scan_has_seen_are_refused_before_they_are_looked_up():
    scan = scan_parts([part("a", "aaaa", "b")], None, TEXT, ("min_chars:2",), 0.3)
    with pytest.raises(DataChanged):
        list(kept_records(scan, [part("a", "aaaa", "b", *"c" * 20)], None, held_out=True))


@pytest.mark.parametrize("evaluation", [None, [part("b", "x")]])
def test_cleaning_that_leaves_nothing_is_named_with_its_steps(evaluation):
    with pytest.raises(
        UserError, match=r"^data\.cleaning leaves nothing of \d records \(min_chars:100 dropped \d\): loosen"
    ):
        scan_parts([part("a", "one", "two")], evaluation, TEXT, ("lowercase", "min_chars:100"), 0.1)
    with pytest.raises(
        UserError, match=r"^data: none of \d records has text after data\.cleaning: check the files and"
    ):
        scan_parts([part("a", " ", "  ")], evaluation and [part("b", " ")], TEXT, ("whitespace",), 0.1)
    with pytest.raises(UserError, match=r"^data: none of \d records has text: check the files and the text column"):
        scan_parts([part("a", "", "")], evaluation and [part("b", "")], TEXT, (), 0.1)
