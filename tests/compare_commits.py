"""Bitwise comparison of the training of two commits on this machine.

    python tests/compare_commits.py A B [--recipes=quickstart,classify_quickstart] [--steps=200]

Each recipe is trained by both commits, one after the other, with a data cache of its own
each. Losses, batch hashes and the final arrays must be equal bit for bit. Exit code 0 if
they are, 1 if not, with the first difference of each recipe.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tiny_runs import metrics_lines, saved_arrays

REPOSITORY = Path(__file__).parents[1]
RECIPES = ("quickstart", "classify_quickstart", "translate_quickstart", "bert_small_stdlib")
COMPARED = ("train/loss", "train/grad_norm", "data/batch_hash")


def train(tree: Path, recipe: str, steps: int, directory: Path) -> Path:
    """Trains a recipe with the code of a checked-out tree and returns the work directory."""
    workdir = directory / recipe
    command = [
        sys.executable, "-m", "jaxdp", "train", f"--config={tree / 'configs' / recipe}.py", f"--workdir={workdir}",
        f"--config.total_steps={steps}", "--config.log.every_steps=1", "--config.log.batch_hash=True",
        "--config.eval.every_steps=0", "--config.eval.num_batches=1", "--config.eval.num_scored=0", "--config.eval.metric=eval/loss",
        "--cpu_devices=2",
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "XDG_CACHE_HOME": str(directory / "cache"),
        "JAX_PLATFORMS": "cpu",
        "PYTHONHASHSEED": "0",  # which the decompiler corpus of earlier commits follows
    }
    subprocess.run(command, cwd=directory, env=environment, check=True)
    return workdir


def first_difference(one: Path, other: Path, step: int) -> str | None:
    """A sentence for the first difference of two runs, or None if they are equal."""
    for name in COMPARED:
        values = [[(line["step"], line[name]) for line in metrics_lines(workdir, name)] for workdir in (one, other)]
        for (step_a, a), (step_b, b) in zip(*values, strict=True):
            if (step_a, a) != (step_b, b):
                return f"{name} of step {step_a} is {a!r} and {b!r}"
    arrays, others = saved_arrays(one, step), saved_arrays(other, step)
    if arrays.keys() != others.keys():
        return f"the arrays {sorted(arrays.keys() ^ others.keys())} are in one of the two alone"
    different = [name for name in arrays if arrays[name].tobytes() != others[name].tobytes()]
    return f"the final arrays {', '.join(different[:3])} differ" if different else None


def main() -> int:
    """Compares two commits; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs=2, metavar="COMMIT")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    differs = False
    with tempfile.TemporaryDirectory() as directory:
        trees = [Path(directory, name, "tree") for name in ("a", "b")]
        for tree, commit in zip(trees, options.commits, strict=True):
            tree.mkdir(parents=True)
            archive = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        for recipe in options.recipes.split(","):
            runs = [train(tree, recipe, options.steps, tree.parent) for tree in trees]
            difference = first_difference(*runs, options.steps)
            differs = differs or difference is not None
            print(f"{recipe}: {difference or f'{options.steps} steps equal bit for bit'}", flush=True)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
