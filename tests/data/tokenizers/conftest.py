"""Texts to train on, and vocabularies trained once for all tests of the folder."""

import sysconfig
from pathlib import Path

import pytest

from jaxdp.data.tokenizers import make_tokenizer

KINDS = ("bpe", "unigram", "wordpiece")
SPECIAL = ("[CLS]", "[MASK]")
FRONT = {
    "bpe": ["<|endoftext|>", "[CLS]", "[MASK]"],
    "unigram": ["<|endoftext|>", "[CLS]", "[MASK]"],
    "wordpiece": ["<|endoftext|>", "[UNK]", "[CLS]", "[MASK]"],
}
"""The special tokens of each kind, by id from 0."""


def source_texts():
    """About 600 kB of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted([*root.glob("json/*.py"), *root.glob("email/*.py"), *root.glob("http/*.py")])
    return [path.read_text(encoding="utf-8") for path in paths]


@pytest.fixture(scope="session")
def texts():
    return source_texts()


@pytest.fixture(scope="session")
def trained(texts):
    """A tokenizer of 1000 tokens by kind."""
    return {kind: make_tokenizer(f"{kind}:1000", texts, SPECIAL) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(trained, kind):
    return trained[kind]
