"""Documents as one flat array of tokens."""

from collections.abc import Sequence

import numpy as np

from jaxdp.data.sources import Document
from jaxdp.data.tokenizers import Tokenizer


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of all documents in order, with end of text between two, none at the end.

    Args:
        documents: one or more.
        tokenizer: gives the ids.

    Returns:
        [num_tokens] in the smallest of uint8, uint16 and uint32 that holds every id.
    """
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    end_of_text = np.array([tokenizer.end_of_text_id], dtype)
    parts = []
    for document in documents:
        parts += [tokenizer.encode(document.text).astype(dtype), end_of_text]
    return np.concatenate(parts[:-1])
