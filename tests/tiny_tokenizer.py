"""A tokenizer of letters and blanks, with the special tokens that tasks ask for."""

import string

import numpy as np

SMALL_LETTERS = string.ascii_lowercase + " "


class LetterTokenizer:
    """Special tokens are 0, 1, 2, ..., then come the letters and the blank, which begins a word."""

    eos_id = 0

    def __init__(self, special_tokens=("[CLS]", "[SEP]", "[MASK]"), letters=SMALL_LETTERS):
        names = ("<|endoftext|>", *special_tokens)
        self.special_ids = {name: number for number, name in enumerate(names)}
        self.first, self.letters = len(names), letters
        self.vocab_size = self.first + len(letters)

    def special_id(self, name):
        return self.special_ids[name]

    def encode(self, text):
        return np.array([self.first + self.letters.index(letter) for letter in text], np.int32)

    def decode(self, ids):
        return "".join(self.letters[i - self.first] for i in ids if i >= self.first)

    def token_bytes(self):
        return np.repeat(np.array([0, 1], np.int32), [self.first, len(self.letters)])

    def word_boundaries(self):
        boundaries = np.zeros((self.vocab_size, 2), bool)
        boundaries[: self.first] = True
        boundaries[-1, 0] = True  # a blank belongs to the word that follows it
        return boundaries
