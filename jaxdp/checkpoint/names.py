"""Names of the entries of a checkpoint directory: checkpoints, interrupted saves and deletions, damaged checkpoints.

Only entries with names of these forms are ever deleted or renamed.
"""

import itertools
import re
from pathlib import Path

from jaxdp.errors import UserError

SAVING_MARK = ".saving-"
"""Mark of a save in progress, before the token of the saving process; a rename to the step commits it."""

SHARDS_MARK = ".shards"
"""Mark of the directory next to a save in progress where each process writes its shards."""

DELETING_MARK = ".deleting"
"""Mark of a checkpoint whose deletion is in progress."""

DAMAGED_MARK = ".damaged"
"""Mark of a damaged checkpoint that was set aside; jaxdp never deletes it."""

FOREIGN_MARK = ".foreign"
"""Mark of an entry that had the name of a new checkpoint without being one; jaxdp never deletes it."""

_STEP = re.compile("0|[1-9][0-9]*")
_LEFTOVER = re.compile(
    rf"(?P<step>{_STEP.pattern})(\.saving-[0-9a-f]+(\.shards)?)?(\.orbax-checkpoint-tmp.*|\.deleting(\.[0-9]+)?)?"
)
_DAMAGED = re.compile(rf"(?P<step>{_STEP.pattern})\.damaged(\.[0-9]+)?")


def step_of(name: str) -> int | None:
    """Returns the step of a checkpoint; None for a name that jaxdp does not use, such as `007` or `²`."""
    return int(name) if _STEP.fullmatch(name) else None


def leftover_step(name: str) -> int | None:
    """Returns the step of an interrupted save or deletion; None for any other name."""
    match = _LEFTOVER.fullmatch(name)
    return int(match["step"]) if match and name != match["step"] else None


def damaged_step(name: str) -> int | None:
    """Returns the step of a checkpoint that was set aside; None for any other name."""
    match = _DAMAGED.fullmatch(name)
    return int(match["step"]) if match else None


def shards_file(directory: Path, item: str) -> Path:
    """Returns the file of an item of shards in a checkpoint."""
    return directory / f"{item}.safetensors"


def free_name(directory: Path, mark: str) -> Path:
    """Returns `<name><mark>` next to `directory`, with a number at the end if that exists."""
    names = itertools.chain([mark], (f"{mark}.{number}" for number in itertools.count(2)))
    paths = (directory.with_name(directory.name + name) for name in names)
    return next(path for path in paths if not path.exists() and not path.is_symlink())


def list_directory(directory: Path) -> list[Path]:
    """Lists the entries of a directory; none if it is missing.

    Raises:
        UserError: The path is not a directory, or cannot be read.
    """
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{directory} cannot be listed ({error.strerror}); it must be a directory that this user can read: move "
            "away what is there, or change its permissions."
        ) from error
