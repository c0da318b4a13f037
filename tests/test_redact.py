"""Redaction: no secret of a URL and no control character reaches a terminal or a log."""

import json

import pytest

from jaxdp.redact import (
    escape_controls,
    escape_json_controls,
    is_masked,
    mask_secrets,
    masked_values,
    redact,
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://ann:pw@host/a.csv", "https://ann:***@host/a.csv"),
        ("https://ann:p@w:x@host:80/a", "https://ann:***@host:80/a"),
        ("https://ann:p/w@host/a", "https://ann:***@host/a"),
        ("https://:pw@host/", "https://:***@host/"),
        ("https://ghp_abc@host/a", "https://***@host/a"),
        ("ftp://ann:pw@host/a b", "ftp://ann:***@host/a b"),
        ("https://h/a?token=abc&x=1", "https://h/a?token=***&x=1"),
        (
            "https://h/a?x=1&X-Amz-Signature=f00&X-Amz-Credential=AK%2F1#part",
            "https://h/a?x=1&X-Amz-Signature=***&X-Amz-Credential=***#part",
        ),
        ("https://b.blob/a?sv=1&sig=a%3D", "https://b.blob/a?sv=1&sig=***"),
        ("zip://*.txt::https://u:pw@h/a?API_KEY=1", "zip://*.txt::https://u:***@h/a?API_KEY=***"),
        (
            "data.path='https://u:pw@h/a' and \"https://v:qw@h/b\"",
            "data.path='https://u:***@h/a' and \"https://v:***@h/b\"",
        ),
    ],
)
def test_secrets_of_urls_are_masked_once(text, masked):
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked
    assert is_masked(masked) and not is_masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/path@v1", "hf://datasets/me/set@main/a.parquet", "sftp://ann@host/a", "s3://bucket/a?versionId=3",
        "C:/token=abc", "is it a token? token=abc", "me@host:dir", "",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert mask_secrets(text) == text and not is_masked(text)


@pytest.mark.parametrize(
    "long", ["a" * 500_000, "http://u:p" * 50_000, "http://h/?" + "token" * 100_000], ids=["word", "schemes", "names"]
)
def test_the_time_for_a_long_text_does_not_grow_with_its_square(long):
    assert mask_secrets(f"{long} https://u:pw@h/").endswith("https://u:***@h/")


def test_values_are_masked_at_any_depth_and_types_stay():
    value = {"a": [{"path": "https://u:pw@h/"}, 1.5, None, True], "b": ("https://h/?sig=1",)}
    assert masked_values(value) == {"a": [{"path": "https://u:***@h/"}, 1.5, None, True], "b": ["https://h/?sig=***"]}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\x1b[2Jb\x07", "a\\x1b[2Jb\\x07"),
        ("\x9b31m\x7f\r\x00", "\\x9b31m\\x7f\\x0d\\x00"),
        ("user\u202etxt.exe\u2066", "user\\u202etxt.exe\\u2066"),
        ("\ud800", "\\ud800"),
        ("two\nlines\tand \u00e9 \u4e2d \U0001f600 \u200f", "two\nlines\tand \u00e9 \u4e2d \U0001f600 \u200f"),
    ],
)
def test_controls_are_escaped_and_letters_stay(text, escaped):
    assert escape_controls(text) == escaped


def test_json_stays_the_same_value():
    value = {"label": "a\x9b\x1b\u202e\u00e9\x7f\ud800\n"}
    text = escape_json_controls(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert text.isprintable()


def test_redact_does_both():
    assert redact("\x1b]0;https://u:pw@h/\x07") == "\\x1b]0;https://u:***@h/\\x07"
