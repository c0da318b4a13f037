"""Verification of checkpoints: files against their manifest, and readability of other formats."""

from pathlib import Path

from jaxdp.checkpoint.manifest import find_damage, read_manifest
from jaxdp.checkpoint.remote_copy import place_of
from jaxdp.checkpoint.run_files import run_problems
from jaxdp.errors import DamageFound
from jaxdp.inspection.opening import open_foreign, read_steadily


def verify(path: str, step: str = "latest") -> str:
    """Checks every file of a checkpoint against its manifest; of another format, that every array can be read.

    Returns:
        A sentence that says what was checked.

    Raises:
        UserError: The path is of no known kind.
        DamageFound: Files are missing, changed or cut short; the message names them.
    """
    return read_steadily(path, step, _verified) or _readable(path, step)


def _verified(checkpoint: Path) -> str:
    manifest, problems = read_manifest(checkpoint), find_damage(checkpoint)
    problems = problems or run_problems(checkpoint)
    if manifest is None or problems:
        raise DamageFound("; ".join(problems) + ".")
    return f"{place_of(checkpoint)}: all {len(manifest.files)} files are as they were written"


def _readable(path: str, step: str) -> str:
    """Reads every array."""
    source = open_foreign(path, step)
    count = 0
    for _, pieces in source.streams():
        for _ in pieces:
            pass
        count += 1
    return f"{source.describe()}: all {count} arrays can be read; this format has no checksums of their values"
