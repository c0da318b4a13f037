"""Trains tiny runs while it kills processes, fills a disk, flips bits and takes devices away.

    python tests/chaos.py --kills=100 --seed=0 [--only=NAME] [--directory=DIR]

Each run must end as if nothing had happened. Prints a table: fault, how
injected, times, outcome; the exit code is 1 if a promise was not kept, and then the
runs stay where they are, to be looked at. The numbers that are drawn follow from the
seed; when a kill meets the process depends on the machine too. It takes about a quarter of an
hour on two free cores; filling a disk needs the right to mount one.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from rich.console import Console
from rich.table import Table

jax.config.update("jax_num_cpu_devices", 2)

from chaos_faults.asked_to_stop import asked_to_stop  # noqa: E402
from chaos_faults.changed_data import changed_data  # noqa: E402
from chaos_faults.device_counts import device_counts  # noqa: E402
from chaos_faults.flipped_files import flipped_files  # noqa: E402
from chaos_faults.flipped_replica import flipped_replica  # noqa: E402
from chaos_faults.full_disk import full_disk_at_metrics, full_disk_at_save  # noqa: E402
from chaos_faults.goodput import goodput_of_kills  # noqa: E402
from chaos_faults.hostile_connections import hostile_connections  # noqa: E402
from chaos_faults.hostile_lines import hostile_lines  # noqa: E402
from chaos_faults.interrupted_start import interrupted_start  # noqa: E402
from chaos_faults.kills import kills  # noqa: E402
from chaos_faults.lost_directory import lost_directory  # noqa: E402
from chaos_faults.lost_terminal import lost_terminal  # noqa: E402
from chaos_faults.named_faults import KINDS, named_faults  # noqa: E402
from chaos_faults.object_storage import object_storage  # noqa: E402
from chaos_faults.remote_processes import remote_processes  # noqa: E402
from chaos_faults.reused_directory import reused_directory  # noqa: E402
from chaos_faults.sharded_kills import sharded_kills  # noqa: E402
from chaos_faults.two_processes import two_processes  # noqa: E402
from chaos_faults.workshop import Row, Workshop  # noqa: E402


def faults(arguments: argparse.Namespace) -> dict[str, Callable[[Workshop], Iterator[Row]]]:
    """By the name that --only takes."""
    return {
        "flipped_files": lambda workshop: flipped_files(workshop, arguments.flips),
        "full_disk_at_save": full_disk_at_save,
        "full_disk_at_metrics": full_disk_at_metrics,
        "lost_directory": lost_directory,
        "changed_data": changed_data,
        "reused_directory": lambda workshop: reused_directory(workshop, arguments.reuses),
        "asked_to_stop": lambda workshop: asked_to_stop(workshop, arguments.signals),
        "interrupted_start": lambda workshop: interrupted_start(workshop, arguments.instants),
        "lost_terminal": lost_terminal,
        "flipped_replica": lambda workshop: flipped_replica(workshop, arguments.replica_flips),
        "two_processes": two_processes,
        "hostile_lines": hostile_lines,
        "named_faults": lambda workshop: named_faults(
            workshop, arguments.faults, arguments.kinds or (), arguments.at_once
        ),
        "hostile_connections": lambda workshop: hostile_connections(workshop, arguments.connections),
        "device_counts": device_counts,
        "kills": lambda workshop: kills(workshop, arguments.kills),
        "sharded_kills": lambda workshop: sharded_kills(workshop, arguments.sharded_kills),
        "goodput": lambda workshop: goodput_of_kills(workshop, arguments.goodput_kills),
        "object_storage": lambda workshop: object_storage(workshop, arguments.remote_kills),
        "remote_processes": lambda workshop: remote_processes(workshop, arguments.remote_process_kills),
    }


def run(arguments: argparse.Namespace, directory: Path) -> tuple[list[Row], list[str]]:
    """The rows of the table, and the names of what failed."""
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    rows: list[Row] = []
    failed = []
    for name, fault in faults(arguments).items():
        if arguments.only and name not in arguments.only:
            continue
        start = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            with Workshop(directory / name, arguments.seed) as workshop:
                rows.extend(fault(workshop))
        except Exception as error:
            traceback.print_exc()
            failed.append(name)
            rows.append(Row(name, "", "", f"FAILED: {(str(error) or repr(error)).splitlines()[0]}"))
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return rows, failed


def show(rows: list[Row]) -> None:
    table = Table("fault", "how injected", "times", "outcome", show_lines=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="SIGKILLs; half of them are within saves")
    parser.add_argument(
        "--sharded_kills",
        type=int,
        default=50,
        metavar="N",
        help="SIGKILLs of one of two processes with a sharded state",
    )
    parser.add_argument(
        "--goodput_kills", type=int, default=30, metavar="N", help="SIGKILLs of the run whose goodput is computed"
    )
    parser.add_argument(
        "--remote_kills",
        type=int,
        default=30,
        metavar="N",
        help="SIGKILLs of a run in object storage; needs moto and obstore",
    )
    parser.add_argument(
        "--remote_process_kills",
        type=int,
        default=10,
        metavar="N",
        help="SIGKILLs of one of two processes in object storage; needs moto and obstore",
    )
    parser.add_argument("--flips", type=int, default=50, metavar="N", help="flipped bits in files")
    parser.add_argument("--replica_flips", type=int, default=3, metavar="N", help="flipped bits in devices")
    parser.add_argument("--signals", type=int, default=20, metavar="N", help="SIGTERMs")
    parser.add_argument("--reuses", type=int, default=6, metavar="N", help="work directories deleted and used again")
    parser.add_argument(
        "--instants", type=int, default=50, metavar="N", help="SIGTERMs from the start of a process to its first step"
    )
    parser.add_argument(
        "--faults", type=int, default=13, metavar="N", help="faults of one of several processes, of all kinds"
    )
    parser.add_argument("--at_once", type=int, default=1, metavar="N", help="runs with a named fault at the same time")
    parser.add_argument("--kinds", action="append", choices=tuple(KINDS), help="only this kind; may be given again")
    parser.add_argument(
        "--connections", type=int, default=1000, metavar="N", help="hostile connections to the coordinator's port"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="NAME", help="only this fault; may be given again")
    parser.add_argument("--directory", type=Path, help="where the runs go; default: a temporary folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - faults(arguments).keys():
        parser.error(f"--only={min(unknown)}: choose from {', '.join(faults(arguments))}")
    # Asked to end, it unwinds, so that no run is left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="jaxdp-chaos-"))
    rows, failed = run(arguments, directory)
    show(rows)
    if failed:
        print(f"failed: {', '.join(failed)}; the runs are in {directory}", file=sys.stderr)
    elif not arguments.directory:
        shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
