"""Token files: flat `.bin` arrays of token ids in the format of nanoGPT (`data.source=tokens`)."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxdp.data.file_digest import END_BYTES
from jaxdp.data.preparing.split import split_point
from jaxdp.data.reading.files import unreadable
from jaxdp.data.sequences.element_arrays import DiskArray, open_disk_array
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.errors import UserError

UINT32_SUFFIX = ".u32.bin"


@dataclass(frozen=True)
class TokensFile:
    """Range of tokens in a file, read on demand."""

    tokens: DiskArray  # [num_tokens] uint16 or uint32
    path: str
    first_position: int  # position of `tokens` in the file


def open_tokens(path: str, key: str = "data.path") -> TokensFile:
    """Opens a flat little-endian file: uint32 if its name ends in `.u32.bin`, else uint16.

    Args:
        path: Path of the file.
        key: Configuration key of the path, for messages.

    Raises:
        UserError: The file does not exist, cannot be read, is empty, or ends in the middle of a token.
    """
    dtype = np.dtype("<u4" if path.endswith(UINT32_SUFFIX) else "<u2")
    try:
        size = os.path.getsize(path)
        if size == 0:
            raise UserError(f"{key}: {path} is empty: expected {dtype.name} token ids.")
        if size % dtype.itemsize:
            raise UserError(
                f"{key}: {path} has {size} bytes, which is no whole number of {dtype.name} token "
                f"ids: the file was cut short, or holds uint32 and must be named *{UINT32_SUFFIX}."
            )
    except OSError as error:
        raise unreadable(error, key=key) from error
    return TokensFile(open_disk_array(path, dtype, size // dtype.itemsize), path, 0)


def open_token_splits(path: str | None, eval_fraction: float) -> tuple[TokensFile, TokensFile]:
    """Opens the training and the evaluation tokens of `data.path`.

    Args:
        path: Folder with `train.bin` and `val.bin` (or both as `.u32.bin`), which are the two splits; or one file, whose
            last `eval_fraction` is the validation split.
        eval_fraction: Share between 0 and 1; unused for a folder.

    Raises:
        UserError: See `open_tokens`; or the folder does not have exactly one such pair.
    """
    if not path:
        raise UserError("data.source=tokens needs data.path: a .bin file or a folder of two.")
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        file = open_tokens(path)
        point = split_point(len(file.tokens), eval_fraction)
        return (
            TokensFile(file.tokens.part(0, point), path, 0),
            TokensFile(file.tokens.part(point, len(file.tokens)), path, point),
        )
    pairs = [("train" + suffix, "val" + suffix) for suffix in (".bin", UINT32_SUFFIX)]
    try:
        found = set(os.listdir(path))
    except OSError as error:
        raise unreadable(error) from error
    whole = [pair for pair in pairs if found.issuperset(pair)]
    if len(whole) != 1:
        raise UserError(
            f"data.path: the folder {path} must hold either train.bin and val.bin or "
            f"train{UINT32_SUFFIX} and val{UINT32_SUFFIX}, found {len(whole)} of these pairs: "
            "name one file in data.path, or move one pair away."
        )
    train, evaluation = (open_tokens(os.path.join(path, name)) for name in whole[0])
    return train, evaluation


def fingerprint_tokens(files: Iterable[TokensFile]) -> str:
    """Returns the hexadecimal SHA-256 of the name, size, first MiB and last MiB of each file.

    The middle is not read, since large files would delay the start.
    """
    digest = hashlib.sha256()
    for path in dict.fromkeys(file.path for file in files):
        size = os.path.getsize(path)
        digest.update(f"{os.path.basename(path)}/{size}/".encode())
        with open(path, "rb") as content:
            digest.update(content.read(END_BYTES))
            content.seek(max(size - END_BYTES, 0))
            digest.update(content.read(END_BYTES))
    return digest.hexdigest()


class CheckedWindows:
    """Windows of a token file whose ids are checked when they are read; the file is never read as a whole.

    Args:
        windows: Windows of `file.tokens`.
        file: Token file, named in errors.
        vocab_size: Upper bound of the ids.
    """

    def __init__(self, windows: TokenWindows, file: TokensFile, vocab_size: int):
        self._windows = windows
        self._file = file
        self._vocab_size = vocab_size
        self.num_rows = windows.num_rows

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads sequences, see `TokenWindows.rows`.

        Raises:
            UserError: An id is not below vocab_size; names the file and the position.
        """
        rows = self._windows.rows(indices)
        ids = rows["tokens"].view(np.uint32)  # an id of 2^31 or more is negative as int32
        if ids.max(initial=0) >= self._vocab_size:
            row, column = np.argwhere(ids >= self._vocab_size)[0]
            start = self._file.first_position + int(indices[row]) * self._windows.length
            raise UserError(
                f"{self._file.path} has token id {ids[row, column]} at position {start + column}, "
                f"expected ids below the vocabulary size {self._vocab_size}: set model.vocab_size to "
                "that of the tokenizer which wrote the file."
            )
        return rows
