import pickle
import random
import unicodedata

import numpy as np

from jaxdp.data.cleaning.cleaner import Cleaner, is_dropped
from jaxdp.data.reading.records import Record


def scan(cleaner, records):
    return [cleaner.clean(record) for record in records]


def pieces(*documents):
    """Records of documents, each a list of pieces."""
    return [
        Record({"text": piece}, f"{n}, {i}", continues=i < len(document) - 1)
        for n, document in enumerate(documents)
        for i, piece in enumerate(document)
    ]


def test_order_is_that_of_the_list():
    for steps, expected in ((["html", "lowercase"], "&lt;b"), (["lowercase", "html"], "<b")):
        [record] = scan(Cleaner(steps, ["text"]), pieces(["&amp;lt;B" if steps[0] == "html" else "&LT;B"]))
        assert record.fields["text"] == expected


def test_other_fields_stay_and_nothing_is_copied_in_vain():
    record = Record({"text": "A", "label": "B"}, "a", True)
    assert Cleaner(["lowercase"], ["text"]).clean(record) == Record({"text": "a", "label": "B"}, "a", True)
    assert Cleaner([], ["text"]).clean(record) is record


def test_markers_stay_and_what_is_around_them_becomes_what_it_is_in_a_text(tmp_path):
    stop = tmp_path / "stop.txt"
    stop.write_text("mask\nthe\n")
    steps = ["html", "urls", f"stopwords:{stop}", "lowercase", "unicode:NFKC", "control", "whitespace"]
    steps += ["min_chars:1000", "deduplicate"]  # drop whole texts, which is not asked for here
    changes = Cleaner(steps, ["text"]).changes()

    def around(text):
        return changes.around(("[MASK]", "[X]"), Record({"text": text, "n": 1}, "r")).fields

    assert (
        around("\ue000 A  [MASK]&amp;\x00  www.a.de/[MASK] [x][X] the Mask")["text"] == "\ue000 a [MASK]& [MASK] [x][X]"
    )
    assert around("[MASK] [MASK]") == {"text": "[MASK] [MASK]", "n": 1}
    for text in ("A  B", "\ufb01 ", ""):
        assert around(text)["text"] == changes(Record({"text": text}, "r")).fields["text"]


def test_report():
    cleaner = Cleaner(["control", "min_chars:2", "lowercase", "deduplicate"], ["text"])
    scan(cleaner, pieces(["a\0"], ["ab"], ["AB"], ["abc\0"], ["x"]))
    assert cleaner.report() == [
        {"step": "control", "seen": 5, "changed": 2, "dropped": 0},
        {"step": "min_chars:2", "seen": 5, "changed": 0, "dropped": 2},
        {"step": "lowercase", "seen": 3, "changed": 1, "dropped": 0},
        {"step": "deduplicate", "seen": 3, "changed": 0, "dropped": 1},
    ]


def test_duplicates_are_exact_and_by_column():
    cleaner = Cleaner(["deduplicate"], ["a", "b"])
    rows = [("x", "y"), ("xy", ""), ("x", "y"), ("x", "y "), ("", "xy"), ("xy", "")]
    kept = [cleaner.clean(Record({"a": a, "b": b, "label": i}, "r")) for i, (a, b) in enumerate(rows)]
    assert [record is not None for record in kept] == [True, True, False, True, True, False]
    assert [is_dropped(cleaner.dropped, i) for i in range(6)] == [record is None for record in kept]


def test_dropped_is_a_bit_a_record():
    rng = random.Random(0)
    cleaner = Cleaner(["min_chars:2"], ["text"])
    kept = scan(cleaner, pieces(*([rng.choice(["a", "ab"])] for _ in range(100))))
    assert len(cleaner.dropped) == 13
    bits = np.unpackbits(np.frombuffer(bytes(cleaner.dropped), np.uint8), bitorder="little")
    assert bits[:100].tolist() == [record is None for record in kept]
    assert [is_dropped(bytes(cleaner.dropped), i) for i in range(100)] == bits[:100].tolist()


def test_workers_make_what_the_scan_saw(tmp_path):
    (tmp_path / "stop.txt").write_text("a\n")
    rng = random.Random(0)

    def text():
        return "".join(rng.choices("aAbB \t\n<>&;é", k=rng.randint(0, 6)))

    documents = [[text() for _ in range(rng.choice([1, 1, 1, 2, 3]))] for _ in range(3000)]
    records = pieces(*documents)
    steps = ["unicode:NFD", "html", "deduplicate", f"stopwords:{tmp_path}/stop.txt", "min_chars:1", "urls",
             "control", "lowercase", "whitespace", "max_chars:5", "deduplicate"]  # fmt: skip
    cleaner = Cleaner(steps, ["text"])
    expected = scan(cleaner, records)
    assert 100 < sum(record is None for record in expected) < 2900
    changes = pickle.loads(pickle.dumps(cleaner.changes()))
    numbers = list(range(len(records)))
    rng.shuffle(numbers)  # workers see no order
    for number in numbers:
        if is_dropped(cleaner.dropped, number):
            assert expected[number] is None
        else:
            assert changes(records[number]) == expected[number]
    kept = iter(record is not None for record in expected)
    for document in documents:  # what is dropped of a document is its beginning
        flags = [next(kept) for _ in document]
        assert flags == sorted(flags)


def test_length_limits_keep_or_drop_a_document_as_a_whole():
    documents = pieces(["long piece", "x"], ["y"], ["no", "long piece"], ["long piece"])
    kept = scan(Cleaner(["min_chars:3"], ["text"]), documents)
    assert [record is not None for record in kept] == [True, True, False, False, False, True]
    kept = scan(Cleaner(["max_chars:3"], ["text"]), documents)
    assert [record is not None for record in kept] == [False, False, True, True, True, False]


def test_documents_that_begin_alike():
    kept = scan(
        Cleaner(["deduplicate"], ["text"]),
        pieces(["a", "b"], ["a", "b"], ["a", "c"], ["b"], ["b", "a"], ["a", "b", "c"]),
    )
    expected = ["a", "b", None, None, None, "c", "b", None, "a", None, None, "c"]
    assert [record and record.fields["text"] for record in kept] == expected


def test_a_dropped_first_piece_does_not_hide_the_new_document():
    # min_chars drops the first piece of the second document before max_chars hears of it.
    cleaner = Cleaner(["min_chars:2", "max_chars:3"], ["text"])
    kept = scan(cleaner, pieces(["abcd", "e"], ["a", "bcd"], ["ab"]))
    assert [record is not None for record in kept] == [False] * 4 + [True]


def test_identity_follows_the_words_not_their_file(tmp_path):
    def identity(name, words):
        (tmp_path / name).write_text(words)
        return Cleaner(["lowercase", f"stopwords:{tmp_path / name}"], ["text"]).identity

    assert identity("a", "x\ny\n") == identity("b", "Y\nx") != identity("a", "x\n")
    assert Cleaner(["control", "urls"], ["text"]).identity == ("control", "urls")
    assert Cleaner(["unicode:NFC"], []).identity == (f"unicode:NFC by Unicode {unicodedata.unidata_version}",)
