"""Pre-flight check: all processes must have the same configuration, code, package versions and data.

Processes that differ would each train a model of their own, or hang in a collective that only some of them call.
"""

import collections
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
from jaxdp.parallel.spmd import VARIABLE, backend_name
from jaxdp.provenance import PACKAGES
from jaxdp.run_config import DATA_PLACES, RunConfig
from jaxdp.source_code import normalized_source
from jaxdp.workdir import WorkDir

MAY_DIFFER = (*(f"data.{key}" for key in DATA_PLACES), "data.cache_dir", "init_from")
"""Keys of file locations, which may differ between hosts; fingerprints and checksums compare the content."""

_MAX_SHOWN = 8
"""Maximum number of differences in one message."""


def statement(
    config: RunConfig, data: Mapping[str, Any], total_steps: int, initial_checksum: str | None = None
) -> dict[str, Any]:
    """Returns everything that the processes of a run must have in common, as plain JSON values.

    Args:
        config: Resolved configuration.
        data: `Dataset.identity`.
        total_steps: Optimizer updates of the run.
        initial_checksum: Checksum of the parameters of another run that it starts from; None without `init_from`.
    """
    values = flatten(to_json(config))
    values["data.mixture"] = without_places(values["data.mixture"])
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        VARIABLE: backend_name(),
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


def check_same(control_plane: ControlPlane, own: Mapping[str, Any]) -> None:
    """Compares the statements of all processes.

    Raises:
        UserError: They differ; every process raises it, with both sides.
    """
    if control_plane.num_processes == 1:
        return
    # Parsing the package takes a third of a second, which a single process need not spend.
    own = {"source of jaxdp": source_hash()[:12], **own}
    digests = control_plane.allgather(hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    differences = list(_differences(control_plane.allgather(own), control_plane.hosts))
    more = [f"and {len(differences) - _MAX_SHOWN} more"] if len(differences) > _MAX_SHOWN else []
    raise UserError(
        f"the {control_plane.num_processes} processes of this run do not agree:\n  "
        + "\n  ".join(differences[:_MAX_SHOWN] + more)
        + f"\n{_fix(digests, control_plane.hosts)}"
    )


def _fix(digests: Sequence[str], hosts: Sequence[str]) -> str:
    """Names the processes that differ from the majority, if more than half agree."""
    counts = collections.Counter(digests)
    common = max(counts, key=counts.__getitem__)
    count = counts[common]
    odd = [f"{process} on {hosts[process]}" for process, digest in enumerate(digests) if digest != common]
    if 2 * count <= len(digests):
        return "Give all of them the same command, code, packages and data."
    who = f"Process {odd[0]} differs" if len(odd) == 1 else f"Processes {', '.join(odd)} differ"
    return f"{who} from the other {count}, which agree: give all of them the same command, code, packages and data."


def _differences(statements: Sequence[Mapping[str, Any]], hosts: Sequence[str]):
    """Yields `optim.seed: 0 in process 0 on a, 1 in process 1 on b` for every key, by its first difference."""
    first = statements[0]
    for key in dict.fromkeys(key for each in statements for key in each):
        for process, found in enumerate(statements):
            if found.get(key) != first.get(key):
                yield (
                    f"{key}: {json.dumps(first.get(key))} in process 0 on {hosts[0]}, "
                    f"{json.dumps(found.get(key))} in process {process} on {hosts[process]}"
                )
                break


def check_shared_directory(control_plane: ControlPlane, directory: WorkDir) -> None:
    """Checks that all processes see the files that process 0 writes.

    Raises:
        UserError: One does not; every process raises it.
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
            f"--workdir={directory.root}; it must be one directory that all machines share, or a URL in object storage."
        )
