"""Vocabularies trained once for all tests of the folder."""

import pytest
from training_texts import KINDS, SPECIAL, source_texts

from jaxdp.data.tokenizers import make_tokenizer


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
