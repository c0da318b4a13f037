"""Configuration history of a run: the file with the configuration that was in force at each step.

A start that changes the configuration keeps the one before as `config.STEP.json`, where STEP is the step from which it
continues. Work that a later start has lost does not count: its configuration was in force at no step that is left.
"""

from jaxdp.provenance import first_step, read_entries
from jaxdp.workdir import WorkDir


def kept_steps(directory: WorkDir) -> list[int]:
    """Returns the steps of all `config.STEP.json`, in order."""
    names = (path.name.split(".")[1] for path in directory.root.glob("config.*.json"))
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)


def config_in_force(directory: WorkDir, step: int) -> str:
    """Returns the name of the file with the configuration of an update.

    Args:
        directory: Work directory of the run.
        step: Number of the update, from 1.
    """
    kept = [at for at in kept_steps(directory) if at >= step]
    starts = [first_step(entry) for entry in read_entries(directory.provenance) or []]
    made_by = max((index for index, first in enumerate(starts) if first < step), default=None)
    if made_by is not None:  # earlier starts continued from later steps, whose work is lost
        kept = [at for at in kept if at in starts[made_by + 1 :]]
    return kept_name(kept[0]) if kept else directory.config.name


def kept_name(step: int) -> str:
    """Returns the name of the configuration that was in force up to a step."""
    return f"config.{step}.json"
