import numpy as np

from jaxdp.data.corpus import join_documents
from jaxdp.data.tokenizers import ByteTokenizer, CharTokenizer


def join(texts, tokenizer):
    return join_documents((tokenizer.encode(text) for text in texts), tokenizer)


def test_end_of_text_stands_between_documents_only():
    tokens = join(["ab", "c", "d"], ByteTokenizer())
    assert tokens.tolist() == [97, 98, 256, 99, 256, 100]
    assert tokens.dtype == np.uint16
    assert join(["ab"], ByteTokenizer()).tolist() == [97, 98]


def test_smallest_dtype_that_holds_every_id():
    for num_characters, dtype in ((255, np.uint8), (256, np.uint16), (65536, np.uint32)):
        tokenizer = CharTokenizer("".join(map(chr, range(num_characters))))
        tokens = join(["\x01", "\x02"], tokenizer)
        assert tokens.dtype == dtype
        assert tokens.tolist() == [1, num_characters, 2]
