"""`data.tokenizer` by name."""

import re
from collections.abc import Iterable

from jaxdp.data.tokenizers.base import Tokenizer
from jaxdp.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from jaxdp.data.tokenizers.files import download_tokenizer, load_tokenizer, parse_tokenizer
from jaxdp.data.tokenizers.training import train_bpe, train_unigram, train_wordpiece
from jaxdp.errors import UserError

TRAINED = {"bpe": train_bpe, "wordpiece": train_wordpiece, "unigram": train_unigram}
VOCABULARY_FORMAT = 1
"""Number of what `make_tokenizer` makes of the same texts; part of the keys of the cache.

To be raised when a change of `data/tokenizers` gives another tokenizer.json for the same name, texts and special tokens.
"""

LARGEST = 1_000_000  # vocabulary that is trained: the library sets memory aside for all of it


def make_tokenizer(
    name: str, texts: Iterable[str], special_tokens: Iterable[str] = (), content: str | None = None
) -> Tokenizer:
    """The tokenizer of `data.tokenizer`.

    Args:
        name: `byte`, `char`, `bpe:N`, `wordpiece:N`, `unigram:N` with N ids in all,
            `hf:NAME` or the path of a file that ends in `.json`.
        texts: for a trained kind the training documents, for `char` all documents,
            evaluation too, as it refuses characters that it has not met. Read once,
            in order; not at all by the other kinds.
        special_tokens: names that the task needs beside end of text. Trained kinds
            number the special tokens from 0: `<|endoftext|>`, wordpiece's `[UNK]`,
            then these; `byte` and `char` number them last, a file keeps its own.
        content: text of the file that `name` names; None: it is read.

    Raises:
        UserError: see `check_tokenizer_name`; a vocabulary too small for its
            alphabet; no such file, or model on the Hub, or not a tokenizer.json.
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
        return load_tokenizer(name, special_tokens) if content is None else parse_tokenizer(content, name, special_tokens)
    return TRAINED[kind](size, texts, special_tokens)


def check_tokenizer_name(name: str) -> None:
    """Checks `data.tokenizer` before any data is read.

    Raises:
        UserError: an unknown kind, or no vocabulary size where one is needed.
    """
    _parse(name)


def _parse(name: str) -> tuple[str, int | None]:
    """(kind, vocabulary size of a trained one)."""
    kind, _, rest = name.partition(":")
    if name in ("byte", "char"):
        return name, None
    if kind == "hf":
        return "hf", None
    if kind in TRAINED:
        if not re.fullmatch("[0-9]+", rest) or not 0 < int(rest) <= LARGEST:
            raise UserError(
                f"data.tokenizer={name!r} has no vocabulary size: expected {kind}:N with N a whole number "
                f"up to {LARGEST}, as in {kind}:8000."
            )
        return kind, int(rest)
    if name.endswith(".json"):
        return "file", None
    raise UserError(
        f"data.tokenizer={name!r} is unknown: expected byte, char, bpe:N, wordpiece:N, unigram:N, hf:NAME "
        "or the path of a tokenizer.json."
    )
