"""SHA-256 digest of a file, of its whole content or of its size and both ends."""

import hashlib
import os

from jaxdp.json_files import open_regular

END_BYTES = 1 << 20
"""Bytes that are read at each end of a file if its middle is left out, and at once in any case."""


def file_digest(path: str | os.PathLike[str], *, ends_only: bool = False) -> str:
    """Returns the hexadecimal SHA-256 of the size and content of a regular file.

    Args:
        path: Path of the file.
        ends_only: Reads the first and the last MiB only, for files that take longer than a start may.

    Raises:
        OSError: The file does not exist or is not a regular file.
    """
    with open_regular(path) as content:
        size = os.fstat(content.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        if ends_only:
            digest.update(content.read(END_BYTES))
            content.seek(max(size - END_BYTES, min(size, END_BYTES)))
        while block := content.read(END_BYTES):
            digest.update(block)
    return digest.hexdigest()
