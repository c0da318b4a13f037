"""What the vocabularies of these tests are trained on, and their special tokens."""

import sysconfig
from pathlib import Path

KINDS = ("bpe", "unigram", "wordpiece")
SPECIAL = ("[CLS]", "[MASK]")
FRONT = {
    "bpe": ["<|endoftext|>", "[CLS]", "[MASK]"],
    "unigram": ["<|endoftext|>", "[CLS]", "[MASK]"],
    "wordpiece": ["<|endoftext|>", "[UNK]", "[CLS]", "[MASK]"],
}
"""The special tokens of each kind, by id from 0."""


def source_texts():
    """About 300 kB of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted([*root.glob("json/*.py"), *root.glob("email/*.py"), *root.glob("http/*.py")])
    return [path.read_text(encoding="utf-8") for path in paths[::2]]
