"""What the processes of a run must have in common, asked before they train together.

Processes that differ in their code, packages, configuration or data would train
on, each its own model, or hang in a collective that only some of them call.
"""

import hashlib
import json
import platform
import secrets
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxdp.config import to_json
from jaxdp.config_diff import without_places
from jaxdp.errors import UserError
from jaxdp.nested import flatten
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.provenance import PACKAGES
from jaxdp.run_config import DATA_PLACES, RunConfig
from jaxdp.source_code import normalized_source
from jaxdp.workdir import WorkDir

MAY_DIFFER = (*(f"data.{key}" for key in DATA_PLACES), "data.cache_dir", "init_from")
"""Where things lie on a machine; whether they are the same is told by fingerprint and checksum."""

_SHOWN = 8
"""Differences named in one message."""


def statement(
    config: RunConfig, data: Mapping[str, Any], total_steps: int, initial_checksum: str | None = None
) -> dict[str, Any]:
    """What this process is about to train, with what.

    Args:
        config: resolved.
        data: `Data.identity`.
        total_steps: length of the run.
        initial_checksum: of the parameters of another run that it starts from; None: of none.
    """
    values = flatten(to_json(config))
    values["data.mixture"] = without_places(values["data.mixture"])
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        **{key: value for key, value in values.items() if key not in MAY_DIFFER},
        **data,
        "parameters of init_from": initial_checksum,
        "steps in all": total_steps,
    }


def source_hash(package: Path = Path(__file__).parents[1]) -> str:
    """Returns the SHA-256 of the names and the code of the package's source files; comments and docstrings do not count."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = normalized_source(path.read_bytes()).encode()
        digest.update(f"{path.relative_to(package).as_posix()}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def check_same(control_plane: ControlPlane, said: Mapping[str, Any]) -> None:
    """Compares what all processes say.

    Raises:
        UserError: they differ; every process raises it, with both sides.
    """
    if control_plane.num_processes == 1:
        return
    # Parsing the package takes a third of a second, which a single process need not spend.
    said = {"source of jaxdp": source_hash()[:12], **said}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    if len(set(control_plane.allgather(digest))) == 1:
        return
    differences = list(_differences(control_plane.allgather(said), control_plane.hosts))
    more = [f"and {len(differences) - _SHOWN} more"] if len(differences) > _SHOWN else []
    raise UserError(
        f"the {control_plane.num_processes} processes of this run do not agree:\n  "
        + "\n  ".join(differences[:_SHOWN] + more)
        + "\nGive all of them the same command, code, packages and data."
    )


def _differences(statements: Sequence[Mapping[str, Any]], hosts: Sequence[str]):
    """`optim.seed: 0 in process 0 on a, 1 in process 1 on b` for every key, by its first difference."""
    first = statements[0]
    for key in dict.fromkeys(key for said in statements for key in said):
        for process, said in enumerate(statements):
            if said.get(key) != first.get(key):
                yield (
                    f"{key}: {json.dumps(first.get(key))} in process 0 on {hosts[0]}, "
                    f"{json.dumps(said.get(key))} in process {process} on {hosts[process]}"
                )
                break


def check_shared_directory(control_plane: ControlPlane, directory: WorkDir) -> None:
    """Makes sure that what process 0 writes, all processes see.

    Raises:
        UserError: one does not; every process raises it.
    """
    if control_plane.num_processes == 1:
        return
    probe = directory.root / f".shared_probe.{control_plane.broadcast(secrets.token_hex(6))}"
    if control_plane.is_main_process:
        probe.touch()
    control_plane.allgather(None)
    seen = control_plane.allgather(probe.exists())
    if control_plane.is_main_process:
        probe.unlink()
    if not all(seen):
        blind = seen.index(False)
        raise UserError(
            f"process {blind} on {control_plane.hosts[blind]} does not see what process 0 on {control_plane.hosts[0]} writes to "
            f"--workdir={directory.root}; it must be one directory that all machines share."
        )

