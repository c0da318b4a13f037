"""Tokenized documents as one flat array of tokens."""

from collections.abc import Iterable

import numpy as np

from jaxdp.data.tokenizers import Tokenizer


def join_documents(documents: Iterable[np.ndarray], tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of all documents in order, with end of text between two, none at the end.

    Args:
        documents: one or more, each `[num_tokens] int32`.
        tokenizer: the one that gave the ids.

    Returns:
        [num_tokens] in the smallest of uint8, uint16 and uint32 that holds every id.
    """
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    end_of_text = np.array([tokenizer.end_of_text_id], dtype)
    parts = []
    for tokens in documents:
        parts += [tokens.astype(dtype), end_of_text]
    return np.concatenate(parts[:-1])
