"""Tokenizer backed by the Hugging Face `tokenizers` library.

Differs: the library reads the characters `<|endoftext|>` in a text as that special token; here they are ordinary characters.
Its switch `encode_special_tokens` handles the added tokens. A model can also have the name in its vocabulary (Unigram,
WordPiece), so the library receives the file with every special token under a name that no text contains, and only our
copy keeps the true names.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers

from jaxdp.data.tokenizers.base import REPLACEMENT, Tokenizer, boundaries
from jaxdp.data.tokenizers.characters import byte_symbol
from jaxdp.data.tokenizers.cuts import cut_at_blanks, not_unicode
from jaxdp.data.tokenizers.vetting import panics_as_errors

END_OF_TEXT_NAMES = (
    "<|endoftext|>",  # GPT-2, GPT-NeoX, Qwen, and all that are trained here
    "<|end_of_text|>",  # Llama 3
    "</s>",  # Llama 2, T5, RoBERTa
    "<eos>",  # Gemma
    "<|eos|>",
    "[EOS]",
    "<｜end▁of▁sentence｜>",  # DeepSeek  # noqa: RUF001
    "<EOS>",
    "[SEP]",  # BERT
    "<sep>",  # XLNet
)
"""End-of-text tokens of well-known vocabularies; the first one found is used."""

GROUP_LENGTH = 1 << 22  # characters encoded at once, which bounds memory
BLANK = "▁"  # blank in SentencePiece
HIDDEN = "\x00 "  # prefix of the names of special tokens, for the library

KEEP_TEXT = {"ByteLevel", "Split", "Digits", "Punctuation", "FixedLength", "UnicodeScripts"}
"""Pre-tokenizers that only split, unless configured to remove."""

KINDS = {"BPE": "BPE", "WordPiece": "WordPiece", "Unigram": "Unigram", "WordLevel": "Words"}


class LibraryTokenizer(Tokenizer):
    """Tokenizer of any tokenizer.json with a special token that is one of END_OF_TEXT_NAMES.

    Args:
        content: Text of the file, as the library writes it.
        remarks: Further facts for `describe`.
    """

    def __init__(self, content: str, remarks: Sequence[str] = ()):
        self._json = content
        self._content = json.loads(content)
        self._library = tokenizers.Tokenizer.from_str(json.dumps(_with_hidden_names(self._content)))
        self._library.encode_special_tokens = True
        added = sorted(self._content["added_tokens"], key=lambda token: token["id"])
        self.special_ids = {token["content"]: token["id"] for token in added if token["special"]}
        self.eos_id = next(self.special_ids[name] for name in END_OF_TEXT_NAMES if name in self.special_ids)
        self.vocab_size = max(self._library.get_vocab().values()) + 1
        self.remarks = tuple(remarks)
        self._cut = cut_at_blanks if _splits_at_blanks(self._content) else lambda text: [text]

    def __reduce__(self):
        return LibraryTokenizer, (self._json, self.remarks)

    def encode(self, text: str) -> np.ndarray:
        """Encodes a text, see `Tokenizer.encode`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes several texts, see `Tokenizer.encode_batch`."""
        pieces = [self._cut(text) for text in texts]
        ids = []
        for group in _groups(itertools.chain.from_iterable(pieces)):
            try:
                with panics_as_errors("encode a text"):
                    encodings = self._library.encode_batch_fast(group, add_special_tokens=False)
            except TypeError as error:  # raised for a string that UTF-8 cannot encode
                raise not_unicode("".join(group)) from error
            ids += [np.array(encoding.ids, np.int32) for encoding in encodings]
        parts = iter(ids)
        return [np.concatenate([next(parts) for _ in own]) for own in pieces]

    def decode(self, ids: np.ndarray) -> str:
        """Decodes ids, see `Tokenizer.decode`."""
        symbols, special = self._symbols, set(self.special_ids.values()) - {self._unknown_id}
        words = [symbols.get(i, REPLACEMENT) for i in np.asarray(ids).tolist() if i not in special]
        decoder = self._library.decoder
        if decoder is None:
            return " ".join(words)
        with panics_as_errors("decode ids"):
            return decoder.decode(words)

    def token_bytes(self) -> np.ndarray | None:
        """Returns the bytes of each id, see `Tokenizer.token_bytes`."""
        if not _keeps_bytes(self._content) or not self._shows_added_tokens():
            return None
        alphabet = set(map(byte_symbol, range(256)))
        if not alphabet <= self._library.get_vocab(with_added_tokens=False).keys():
            return None
        sizes = np.zeros(self.vocab_size, np.int32)
        for i, symbol in self._symbols.items():
            sizes[i] = len(symbol) if alphabet.issuperset(symbol) else len(symbol.encode())
        sizes[list(self.special_ids.values())] = 0
        return sizes

    def word_boundaries(self) -> np.ndarray | None:
        """Returns the word boundaries of each id, see `Tokenizer.word_boundaries`."""
        over_bytes = self.token_bytes() is not None
        prefix = self._content["model"].get("continuing_subword_prefix")
        if not over_bytes and not prefix and not any(s.startswith(BLANK) for s in self._symbols.values()):
            return None
        found = np.ones((self.vocab_size, 2), bool)
        for i, symbol in self._symbols.items():
            if symbol and i not in self.special_ids.values():
                text = _latin(symbol) if over_bytes else symbol.replace(BLANK, " ")
                found[i] = (not symbol.startswith(prefix), False) if prefix else boundaries(text)
        return found

    def to_json(self) -> str:
        """Returns the content of a tokenizer.json."""
        return self._json

    def spelled_specials(self) -> list[str]:
        """Returns the special tokens whose name, as a text, the model still encodes as their id."""
        names = [name for name, i in self.special_ids.items() if i != self._unknown_id]
        encoded = self.encode_batch(names)
        return [name for name, ids in zip(names, encoded, strict=True) if self.special_ids[name] in ids]

    def _kind(self) -> str:
        kind = KINDS.get(self._content["model"].get("type"), "Tokenizer")
        return f"{kind} over bytes" if self.token_bytes() is not None else f"{kind} (lossy)"

    @functools.cached_property
    def _symbols(self) -> dict[int, str]:
        """Returns each id as the decoder expects it; unknown text is shown as U+FFFD."""
        symbols = {i: symbol for symbol, i in self._library.get_vocab().items()}
        normalizer = self._library.normalizer
        for token in self._content["added_tokens"]:
            content = token["content"]
            if token["normalized"] and normalizer is not None:
                content = normalizer.normalize_str(content)
            symbols[token["id"]] = content
        if self._unknown_id is not None:
            symbols[self._unknown_id] = REPLACEMENT
        return symbols

    @functools.cached_property
    def _unknown_id(self) -> int | None:
        model = self._content["model"]
        if model.get("unk_token") is not None:
            return self.special_ids.get(model["unk_token"], model["vocab"].get(model["unk_token"]))
        return model.get("unk_id")

    def _shows_added_tokens(self) -> bool:
        """Returns True if the ordinary added tokens are decoded to exactly their own text."""
        return not any(
            token["lstrip"] or token["rstrip"] or self.decode(np.array([token["id"]])) != token["content"]
            for token in self._content["added_tokens"]
            if not token["special"]
        )


def _latin(symbol: str) -> str:
    """Returns the bytes that a byte-level symbol represents: ASCII unchanged, an `a` for any other byte."""
    return "".join(_characters().get(character, "a") for character in symbol)


@functools.cache
def _characters() -> dict[str, str]:
    return {byte_symbol(byte): chr(byte) if byte < 128 else "a" for byte in range(256)}


def _groups(pieces: Iterator[str]) -> Iterator[list[str]]:
    """Yields pieces in groups of about GROUP_LENGTH characters."""
    group, length = [], 0
    for piece in pieces:
        group.append(piece)
        length += len(piece)
        if length >= GROUP_LENGTH:
            yield group
            group, length = [], 0
    if group:
        yield group


def _with_hidden_names(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the same tokenizer with its special tokens under names that no text contains.

    A name that merges use is kept, since the file is invalid without it.
    """
    model = content["model"]
    merged = {part for merge in model.get("merges", ()) for part in (*merge, "".join(merge))}
    hidden = {
        token["content"]: HIDDEN + token["content"]
        for token in content["added_tokens"]
        if token["special"] and token["content"] not in merged
    }

    def rename(name: str) -> str:
        return hidden.get(name, name)

    vocab = model["vocab"]
    if isinstance(vocab, dict):
        vocab = {rename(name): i for name, i in vocab.items()}
    else:
        vocab = [[rename(name), score] for name, score in vocab]
    model = {**model, "vocab": vocab}
    if model.get("unk_token") is not None:
        model["unk_token"] = rename(model["unk_token"])
    added = [{**token, "content": rename(token["content"])} for token in content["added_tokens"]]
    return {**content, "model": model, "added_tokens": added}


def _splits_at_blanks(content: dict[str, Any]) -> bool:
    """Returns True if `cut_at_blanks` cuts only where this tokenizer splits anyway."""
    splitter = content["pre_tokenizer"] or {}
    whole_words = splitter.get("type") == "BertPreTokenizer" or (
        splitter.get("type") == "ByteLevel" and splitter["use_regex"] and not splitter["add_prefix_space"]
    )
    normalizer = content["normalizer"]
    by_character = normalizer is None or normalizer["type"] == "BertNormalizer"
    # An ordinary added token may have blanks inside.
    return whole_words and by_character and all(token["special"] for token in content["added_tokens"])


def _keeps_bytes(content: dict[str, Any]) -> bool:
    """Returns True if decoding restores every text: it is split, written in byte symbols and merged, nothing else."""
    splitter = content["pre_tokenizer"] or {}
    steps = splitter["pretokenizers"] if splitter.get("type") == "Sequence" else [splitter]
    return (
        content["normalizer"] is None
        and (content["decoder"] or {}).get("type") == "ByteLevel"
        and any(step.get("type") == "ByteLevel" for step in steps)
        and all(
            step.get("type") in KEEP_TEXT and step.get("behavior") != "Removed" and not step.get("add_prefix_space")
            for step in steps
        )
        and not content["model"].get("continuing_subword_prefix")
        and not content["model"].get("end_of_word_suffix")
    )
