"""Cost of trackers: step time of whole runs with no tracker and with each one, in turns.

    python tests/tracker_cost.py CONFIG [--rounds=5] [--steps=1200] [--config.KEY=VALUE ...]

Prints the median step time over the rounds, its range, and the median of its ratio to the run without a tracker of the
same round. Services are not contacted: W&B works offline, trackio and MLflow write to files. A tracker whose package is
missing is left out. Nothing is asserted: it is a measurement.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxdp.report.writers import iterate_metrics

PACKAGES = {"none": None, "tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""Package of each tracker."""

WARM_UP_SHARE = 1 / 6
"""Share of the steps before the measurement, which are slower: caches fill, and trackers connect."""

OPTIONS = ("--config.eval.every_steps=0", "--config.checkpoint.every_steps=0")


def step_ms(workdir: Path, config: str, tracker: str, steps: int, options: Sequence[str]) -> float:
    """Trains with a tracker and returns the milliseconds of a step, hooks and writing included."""
    switch = [] if tracker == "none" else [f"--config.log.{tracker}=True"]
    command = [
        sys.executable, "-m", "jaxdp", "train", f"--config={config}", f"--workdir={workdir}",
        f"--config.total_steps={steps}", *OPTIONS, *options, *switch,
    ]  # fmt: skip
    environment = os.environ | {"WANDB_MODE": "offline", "TRACKIO_DIR": str(workdir / "trackio")}
    with open(workdir.with_suffix(".log"), "w") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    lines = [line for line in iterate_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
    lines = [line for line in lines if line["step"] >= steps * WARM_UP_SHARE]
    first, last = lines[0], lines[-1]
    return 1e3 * (last["time"] - first["time"]) / (last["step"] - first["step"])


def main() -> None:
    """Measures and prints a table; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    arguments, options = parser.parse_known_args()
    trackers = [name for name, package in PACKAGES.items() if not package or importlib.util.find_spec(package)]
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(arguments.rounds):
            rounds.append(
                {
                    name: step_ms(
                        Path(directory) / f"{name}_{number}", arguments.config, name, arguments.steps, options
                    )
                    for name in trackers
                }
            )
            print(
                number + 1, {name: round(found, 3) for name, found in rounds[-1].items()}, file=sys.stderr, flush=True
            )
    for name in trackers:
        found, ratio = (
            [times[name] for times in rounds],
            statistics.median(times[name] / times["none"] for times in rounds),
        )
        print(f"{name:12} {statistics.median(found):.1f} ms ({min(found):.1f} to {max(found):.1f})  {ratio:.3f}")


if __name__ == "__main__":
    main()
