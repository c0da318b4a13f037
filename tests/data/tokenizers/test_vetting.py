"""Tokenizer files that would take exponential time or memory, or make the library panic."""

import json
import os

import pytest
from tokenizers import Tokenizer, models

from jaxdp.data.tokenizers import load_tokenizer, vetting
from jaxdp.data.tokenizers.library import LibraryTokenizer
from jaxdp.data.tokenizers.vetting import panics_as_errors
from jaxdp.errors import UserError

# What the tokenizers of Llama 3, DeepSeek V3 and GPT-4o split with.
USED_PATTERNS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s+$",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def split(pattern):
    return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}}


def replaced(pattern, content="x"):
    return {"type": "Replace", "pattern": pattern, "content": content}


def write(path, parts):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2}, []))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    path.write_text(json.dumps(json.loads(tokenizer.to_str()) | parts))
    return path


DANGEROUS = {
    "nested repetition": (split(r"(a+)+$"), r"with the patterns '\(a\+\)\+\$' fails on a run of 3,000"),
    "alternatives": (split(r"(?:q|q)+z"), "fails on a run of 3,000 equal characters"),
    "recursion": (split(r"(?<x>a\g<x>?)+$"), "fails on a run of 3,000 equal characters"),
    "normalizer": ({"normalizer": replaced({"Regex": r"(\s+)+$"})}, "fails on a run of 3,000 equal characters"),
    "doubling": (
        {"normalizer": {"type": "Sequence", "normalizers": [replaced({"String": "a"}, "aa")] * 40}},
        "needs more than 512 MiB of memory besides its own for runs of 3,000 equal characters",
    ),
    "broken charsmap": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "charsmap"),
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_a_dangerous_file_is_refused(tmp_path, name):
    parts, sentence = DANGEROUS[name]
    with pytest.raises(UserError, match=sentence):
        load_tokenizer(write(tmp_path / "tokenizer.json", parts))


@pytest.mark.parametrize("pattern", USED_PATTERNS)
def test_patterns_in_use_pass(tmp_path, pattern):
    assert load_tokenizer(write(tmp_path / "tokenizer.json", split(pattern))).encode("ab c").tolist() == [0, 1, 2]


def test_a_trial_keeps_the_lower_limits_of_its_system(tmp_path, monkeypatch):
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (15, 15))\n"
    monkeypatch.setattr(vetting, "_TRIAL", limited + vetting._TRIAL)
    load_tokenizer(write(tmp_path / "tokenizer.json", split(r"\s+z")))


def test_a_trial_that_does_not_begin_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(vetting, "_TRIAL", "import no_such_module")
    with pytest.raises(
        UserError,
        match=r"could not be tried in a process of its own \(ModuleNotFoundError: No module named 'no_such_module'\)",
    ):
        load_tokenizer(write(tmp_path / "tokenizer.json", split(r"\s+y")))


def test_plain_files_have_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_: pytest.fail("a process was started"))
    load_tokenizer(write(tmp_path / "tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}))


def test_a_panic_while_encoding_is_a_sentence(tmp_path):
    """What the trial does not find: here a component that panics on every text, given past it."""
    text = write(tmp_path / "tokenizer.json", {"pre_tokenizer": {"type": "FixedLength", "length": 0}}).read_text()
    with pytest.raises(UserError, match=r"library failed to encode a text \(chunk size must be non-zero\)"):
        LibraryTokenizer(text).encode("abc")
    with pytest.raises(UserError, match="library failed to"):
        load_tokenizer(tmp_path / "tokenizer.json").encode("abc")


def test_other_exceptions_pass():
    for error in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(error), panics_as_errors("do"):
            raise error


@pytest.mark.parametrize(
    "content", [b"\xff", b"{", b"[]", b"{}", b"[" * 100_000, b'{"model": 3}'], ids=lambda content: str(content)[:9]
)
def test_what_is_no_tokenizer_is_a_sentence(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_named_pipe_is_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="is a named pipe"):
        load_tokenizer(tmp_path / "tokenizer.json")
