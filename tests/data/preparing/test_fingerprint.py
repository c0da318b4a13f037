import hashlib

from jaxdp.data.preparing.fingerprint import Fingerprint
from jaxdp.data.reading.records import Record


def of(*records, columns=("text",)):
    fingerprint = Fingerprint(columns)
    for record in records:
        fingerprint.add(record)
    return fingerprint.hexdigest()


def text(origin, content, continues=False):
    return Record({"text": content}, origin, continues)


def test_is_sha256_of_origins_and_fields():
    def item(kind, content):
        return kind + len(content.encode()).to_bytes(8, "little") + content.encode()

    expected = item(b"t", "n") + item(b"t", "ä") + item(b"n", "12") + item(b"n", "1")
    record = Record({"label": 12, "other": "x", "text": "ä"}, "n", True)
    assert of(record, columns=("text", "label")) == hashlib.sha256(expected).hexdigest()


def test_every_difference_counts():
    prints = {
        of(text("n", "ab")),
        of(text("n", "ac")),
        of(text("m", "ab")),
        of(text("na", "b")),
        of(text("n", "ab", continues=True)),
        of(text("n", "a"), text("b", "")),
        of(text("n", "a"), text("", "b")),
        of(text("n", "1")),
        of(Record({"text": 1}, "n")),
        of(Record({"text": "a", "label": "b"}, "n"), columns=("text", "label")),
        of(Record({"text": "b", "label": "a"}, "n"), columns=("text", "label")),
        of(),
        *(of(Record({"text": value}, "n")) for value in (1.5, 1.25, ["a", "b"], ["ab"], [], [1], ["1"])),
    }
    assert len(prints) == 19


def test_other_columns_do_not_count():
    assert of(text("n", "a")) == of(Record({"text": "a", "more": "b"}, "n"))
