"""Tokenizers: text to token ids and back, stored as a Hugging Face `tokenizer.json`.

    base         interface of every kind       characters   byte and char
    library      any tokenizer.json            training     bpe, wordpiece, unigram
    files        pretrained tokenizers         cuts         long texts, samples of many texts
    numbering    gaps in token ids             vetting      trial run of an unknown tokenizer
    make         `data.tokenizer` by name      conversion   vocab.txt, merges.txt, SentencePiece

Differs: a special token is an id that no text encodes to. `tokenizers` would read the characters `<|endoftext|>` in a
text as that id; here they are ordinary characters.
"""

from jaxdp.data.tokenizers.base import END_OF_TEXT, ONE_THREAD, Tokenizer
from jaxdp.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from jaxdp.data.tokenizers.files import load_tokenizer
from jaxdp.data.tokenizers.library import LibraryTokenizer
from jaxdp.data.tokenizers.make import check_tokenizer_name, make_tokenizer

__all__ = [
    "END_OF_TEXT",
    "ONE_THREAD",
    "ByteTokenizer",
    "CharTokenizer",
    "LibraryTokenizer",
    "Tokenizer",
    "check_tokenizer_name",
    "load_tokenizer",
    "make_tokenizer",
]
