"""Text to token ids and back, kept as a Hugging Face `tokenizer.json`.

    base         what every kind offers        characters   byte and char
    library      any tokenizer.json            training     bpe, wordpiece, unigram
    files        tokenizers of others          cuts         long texts, samples of many
    numbering    gaps in their ids             vetting      a trial before they are used
    make         `data.tokenizer` by name

Departs: a special token is an id that no text encodes to. `tokenizers` would read
the characters `<|endoftext|>` in a text as that id; here they are characters.
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
