"""Reading of JSON files: regular files only, bounded, and one sentence for whatever else is there."""

import os
import socket

import pytest

from jaxdp.errors import UserError
from jaxdp.json_files import MAX_DEPTH, nullify_non_finite, parse_json, read_json, read_regular


def make_damage(path, damage):
    """Puts something else than a JSON object at a path."""
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "directory":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(path.name)
    elif damage == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))
    elif damage == "device":
        path.symlink_to("/dev/zero")


DAMAGES = {
    b"\xff{}": "is not JSON (not UTF-8 at byte 0)",
    '{"a": 1}'.encode("utf-16"): "is not JSON (not UTF-8 at byte 0)",
    b'{"a": 1': "is not JSON (Expecting",
    b"": "is not JSON (Expecting value",
    b"[1, 2]": "holds a JSON list, not a JSON object",
    b"7": "holds the value 7, not a JSON object",
    b'{"a": ' + b"9" * 5000 + b"}": "is not JSON (Exceeds the limit",
    b"[" * 200_000: f"is not JSON (it is nested more than {MAX_DEPTH} levels deep)",
    b'{"a":' * 900 + b"1" + b"}" * 900: f"is not JSON (it is nested more than {MAX_DEPTH} levels deep)",
    "pipe": "cannot be read (is a named pipe, expected a regular file)",
    "device": "cannot be read (is a device, expected a regular file)",
    "socket": "cannot be read (No such device or address)",
    "directory": "cannot be read (is a directory)",
    "loop": "cannot be read (Too many levels of symbolic links)",
    "nothing": "cannot be read (No such file or directory)",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage)[:12])
def test_what_is_no_json_object_is_one_sentence(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "labels.json"
    make_damage(path, damage)
    with pytest.raises(UserError) as error:
        read_json(path, "the labels.json of a run")
    sentence = str(error.value)
    assert sentence.startswith(f"{path} {DAMAGES[damage]}") and sentence.endswith(
        "; expected the labels.json of a run."
    )


def test_an_object_is_read_through_a_link(tmp_path):
    (tmp_path / "true.json").write_text('{"a": ["ä", 1.5, null]}', encoding="utf-8")
    (tmp_path / "link.json").symlink_to("true.json")
    assert read_json(tmp_path / "link.json", "anything") == {"a": ["ä", 1.5, None]}


def test_size_is_bounded(tmp_path):
    path = tmp_path / "big.json"
    path.write_bytes(b" " * 100)
    assert read_regular(path, 100) == b" " * 100
    with pytest.raises(UserError, match="has more than 99 bytes"):
        read_json(path, "anything", max_bytes=99)
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse: a reader without a bound would ask for a TiB
    with pytest.raises(UserError, match="has more than"):
        read_json(path, "anything")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_depth_is_bounded(opening, closing):
    levels = opening.count("[") + opening.count("{")
    for depth in (1, MAX_DEPTH // levels):
        assert parse_json(opening * depth + "1" + closing * depth)
    with pytest.raises(ValueError, match="nested"):
        parse_json(opening * (MAX_DEPTH // levels + 1) + "1" + closing * (MAX_DEPTH // levels + 1))


def test_what_json_has_no_number_for_is_null():
    value = {"a": float("nan"), "b": [1.5, (float("inf"), 2)], "c": {"d": "nan", "e": 10**400, "f": True}}
    assert nullify_non_finite(value) == {"a": None, "b": [1.5, [None, 2]], "c": {"d": "nan", "e": 10**400, "f": True}}
