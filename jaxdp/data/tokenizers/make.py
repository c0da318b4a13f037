"""Construction of the tokenizer that `data.tokenizer` names."""

import re
from collections.abc import Iterable

from jaxdp.data.tokenizers.base import Tokenizer
from jaxdp.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from jaxdp.data.tokenizers.files import download_tokenizer, load_tokenizer, parse_tokenizer
from jaxdp.data.tokenizers.training import train_bpe, train_unigram, train_wordpiece
from jaxdp.errors import UserError

TRAINED = {"bpe": train_bpe, "wordpiece": train_wordpiece, "unigram": train_unigram}
VOCABULARY_FORMAT = 1
"""Format number of the output of `make_tokenizer`; part of the cache keys.

Raise it when a change of `data/tokenizers` gives another tokenizer.json for the same name, texts and special tokens.
"""

MAX_VOCAB_SIZE = 1_000_000  # of a trained vocabulary, since the library allocates memory for all of it


def make_tokenizer(
    name: str, texts: Iterable[str], special_tokens: Iterable[str] = (), content: str | None = None
) -> Tokenizer:
    """Builds the tokenizer of `data.tokenizer`.

    Args:
        name: `byte`, `char`, `bpe:N`, `wordpiece:N`, `unigram:N` with N ids in all, `hf:NAME` or the path of a file that
            ends in `.json`.
        texts: Training documents for a trained kind; for `char` all documents, also those of the validation split, since
            it refuses characters that it has not seen. Read once, in order; unused by the other kinds.
        special_tokens: Names that the task needs in addition to end of text. Trained kinds number the special tokens from 0:
            `<|endoftext|>`, `[UNK]` of wordpiece, then these. `byte` and `char` number them last, a file keeps its own.
        content: Text of the file that `name` names; None: it is read.

    Raises:
        UserError: See `check_tokenizer_name`; the vocabulary is too small for its alphabet; the file or model does not
            exist or is not a tokenizer.json.
    """
    special_tokens = tuple(special_tokens)
    kind, size = _parse(name)
    if kind == "byte":
        return ByteTokenizer(special_tokens)
    if kind == "char":
        return CharTokenizer.from_texts(texts, special_tokens)
    if kind == "hf":
        return download_tokenizer(name.removeprefix("hf:"), special_tokens)
    if kind == "file":
        return (
            load_tokenizer(name, special_tokens) if content is None else parse_tokenizer(content, name, special_tokens)
        )
    assert size is not None, "a trained kind has a size"
    return TRAINED[kind](size, texts, special_tokens)


def check_tokenizer_name(name: str) -> None:
    """Checks `data.tokenizer` before any data is read.

    Raises:
        UserError: The kind is unknown, or a vocabulary size is missing.
    """
    _parse(name)


def _parse(name: str) -> tuple[str, int | None]:
    """Parses a name into kind and vocabulary size (of a trained kind)."""
    kind, _, rest = name.partition(":")
    if name in ("byte", "char"):
        return name, None
    if kind == "hf":
        return "hf", None
    if kind in TRAINED:
        if not re.fullmatch("[0-9]+", rest) or not 0 < int(rest) <= MAX_VOCAB_SIZE:
            raise UserError(
                f"data.tokenizer={name!r} has no vocabulary size: expected {kind}:N with N a whole number "
                f"up to {MAX_VOCAB_SIZE}, as in {kind}:8000."
            )
        return kind, int(rest)
    if name.endswith(".json"):
        return "file", None
    raise UserError(
        f"data.tokenizer={name!r} is unknown: expected byte, char, bpe:N, wordpiece:N, unigram:N, hf:NAME "
        "or the path of a tokenizer.json."
    )
