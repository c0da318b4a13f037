import numpy as np

from jaxdp.data.corpus import encode_documents
from jaxdp.data.sources import Document
from jaxdp.data.tokenizers import ByteTokenizer, CharTokenizer


def documents(*texts):
    return [Document(text, str(i)) for i, text in enumerate(texts)]


def test_end_of_text_stands_between_documents_only():
    tokens = encode_documents(documents("ab", "c", "d"), ByteTokenizer())
    assert tokens.tolist() == [97, 98, 256, 99, 256, 100]
    assert tokens.dtype == np.uint16
    assert encode_documents(documents("ab"), ByteTokenizer()).tolist() == [97, 98]


def test_smallest_dtype_that_holds_every_id():
    for num_characters, dtype in ((255, np.uint8), (256, np.uint16), (65536, np.uint32)):
        tokenizer = CharTokenizer("".join(map(chr, range(num_characters))))
        tokens = encode_documents(documents("\x01", "\x02"), tokenizer)
        assert tokens.dtype == dtype
        assert tokens.tolist() == [1, num_characters, 2]
