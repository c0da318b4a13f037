import random
import unicodedata

import pytest

from jaxdp.data.cleaning.steps import STEPS, make_step
from jaxdp.errors import UserError


def cleaned(step, *texts):
    """What a step makes of the texts of one record."""
    return make_step(step).action(texts, 0)


@pytest.mark.parametrize(
    "step, text, expected",
    [
        ("unicode:NFC", "e\u0301 ﬁ", "é ﬁ"),
        ("unicode:NFD", "é ﬁ", "e\u0301 ﬁ"),
        ("unicode:NFKC", "e\u0301 ﬁ ①", "é fi 1"),
        ("unicode:NFKD", "é ﬁ", "e\u0301 fi"),
        ("control", "a\0b\tc\r\nd\x7f\x85e\u200b\x1b[0m", "ab\tc\nde\u200b[0m"),
        ("whitespace", " a  b\t\tc \r\n\n\n\n d\u3000\xa0e\u2028f \n \n", " a b c\n\n d e f\n\n"),
        ("whitespace", "a b\n\nc\n", "a b\n\nc\n"),
        ("whitespace", "a \t", "a"),
        ("lowercase", "ÄbC İ", "äbc i̇"),
        ("html", "<p>a &lt; b</p><script>c</script>", "a < b\n"),
        ("urls", "see https://a.org/b_(c)?d=e#f, or www.x.de.", "see , or ."),
        ("urls", "no http: and awww.b", "no http: and awww.b"),
        ("urls", "(HTTP://A.B/c) <ftp://x/y>。http://a.b/日本", "() <>。日本"),
        ("min_chars:3", "abc", "abc"),
        ("max_chars:3", "abc", "abc"),
    ],
)
def test_steps(step, text, expected):
    assert cleaned(step, text) == (expected,)


def test_control_drops_exactly_the_control_characters():
    everything = "".join(map(chr, range(0x3000)))
    kept = [c for c in everything if unicodedata.category(c) != "Cc" or c in "\n\t"]
    assert cleaned("control", everything) == ("".join(kept),)


def test_whitespace_leaves_nothing_to_do():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choices(" \t\n\n\r\xa0ab", k=20))
        [once] = cleaned("whitespace", text)
        assert cleaned("whitespace", once) == (once,)
        assert once.split() == text.split()
        assert not any(bad in once for bad in ("  ", " \n", "\n\n\n", "\t", "\r", "\xa0"))
        assert not once.endswith(" ")


def test_limits_are_inclusive_and_hold_for_every_column():
    assert cleaned("min_chars:3", "abc", "ab") is None
    assert cleaned("max_chars:3", "abc", "abcd") is None
    assert cleaned("min_chars:0", "") == ("",)


def test_stop_words(tmp_path):
    path = tmp_path / "stop.txt"
    path.write_text("\ufeffthe\r\n\nDon't\n  Straße \n", encoding="utf-8")
    text = "The other the, don\u2019t DON'T do. STRASSE breathe the's"
    assert cleaned(f"stopwords:{path}", text) == (" other ,   do.  breathe the's",)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a\nnew york\n", r"stop\.txt, line 2 is 'new york', expected one word a line"),
        (b"a\n# b\n", r"stop\.txt, line 2 is '# b', expected one word a line"),
        (b"a\xff", r"data\.cleaning: .*stop\.txt is not UTF-8 text: byte 0xff at offset 1"),
        (b"", r"data\.cleaning: .*stop\.txt is empty"),
        (None, r"data\.cleaning: .*stop\.txt does not exist"),
    ],
)
def test_stop_words_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "stop.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        make_step(f"stopwords:{path}")


@pytest.mark.parametrize(
    "step, message",
    [
        ("stemming", "step 'stemming' is not known"),
        ("", "step '' is not known"),
        ("lowercase:all", "step 'lowercase:all' is written lowercase"),
        ("unicode", "step 'unicode' is written unicode:NFC"),
        ("unicode:nfc", "has form 'nfc', expected NFC|NFD|NFKC|NFKD"),
        ("min_chars:", "has '', expected an integer"),
        ("max_chars:-1", "has '-1', expected an integer"),
        ("max_chars:1e3", "has '1e3', expected an integer"),
    ],
)
def test_unknown_steps(step, message):
    with pytest.raises(UserError, match=r"^data\.cleaning: ") as error:
        make_step(step)
    assert message in str(error.value)
    assert all(usage in str(error.value) for usage in STEPS)
