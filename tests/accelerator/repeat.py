"""Bitwise repetition: two trainings of 20 steps give equal arrays, in one process and in another, with
`parallel.deterministic` and without."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxdp.parallel.devices import DETERMINISTIC_FLAG
from jaxdp.trees import named_leaves

from .context import Context
from .workload import SIZES, gpt_setup, token_file

NUM_STEPS = 20
REPORT_SECS = 3.0
"""Time left for the comparison when a process does not finish."""

CASES = {"deterministic": True, "deterministic again": True, "default": False}
"""Name of a process -> `parallel.deterministic`."""


def measure(context: Context) -> None:
    """Trains in three processes, each twice, and compares the arrays of all trainings."""
    token_file(context)
    running = {name: _start(context, name, deterministic) for name, deterministic in CASES.items()}
    found = {}
    for name, process in running.items():
        try:
            output, _ = process.communicate(timeout=max(context.remaining_secs - REPORT_SECS, 0))
        except subprocess.TimeoutExpired:  # the section is about to be stopped with all of its processes
            context.report(f"{NUM_STEPS} steps, {name}", "not finished", "no time left")
            continue
        if process.returncode:
            context.report(f"{NUM_STEPS} steps, {name}", "failed", f"exit code {process.returncode}; see the log")
        else:
            found[name] = json.loads(output.splitlines()[-1])
    for name, runs in found.items():
        _report_runs(
            context, f"{NUM_STEPS} steps twice, {name}", *runs["hashes"], f"largest difference {runs['difference']:.1e}"
        )
    if {"deterministic", "deterministic again"} <= found.keys():
        first, second = (found[name]["hashes"][0] for name in ("deterministic", "deterministic again"))
        _report_runs(context, f"{NUM_STEPS} steps in two processes, compiled twice, deterministic", first, second)


def _start(context: Context, name: str, deterministic: bool) -> subprocess.Popen:
    """Starts a process with a compilation cache of its own, so that each compiles."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(context.scratch / f"xla_{name.replace(' ', '_')}")}
    if deterministic:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{DETERMINISTIC_FLAG}=true".strip()
    command = [
        sys.executable, "-c", f"from {__name__} import train_twice; train_twice()",
        context.size, str(context.out), str(context.scratch), str(context.deadline), str(deterministic),
    ]  # fmt: skip
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def train_twice() -> None:
    """Trains twice from the seed and prints hashes of all final arrays, as one line of JSON; entry point of a process."""
    size, out, scratch, deadline, deterministic = sys.argv[1:]
    context = Context("repeat", size, Path(out), Path(scratch), float(deadline))
    jax.devices()
    setup = gpt_setup(
        context, "124M", SIZES[size].repeat_rows,
        f"model.num_layers={SIZES[size].repeat_layers}", f"parallel.deterministic={deterministic}",
    )  # fmt: skip
    start, finals = time.perf_counter(), []
    program, control_word = setup.compile_step(), setup.control_word_maker()(0, 0)
    for _ in range(2):
        state, batches = setup.fresh_state(), setup.loader.batches(0)
        for _ in range(NUM_STEPS):
            state, _ = program(state, setup.place(next(batches))[0], control_word)
        finals.append({name: np.asarray(leaf) for name, leaf in named_leaves(state)})
    hashes = [{name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in final.items()} for final in finals]
    difference = max(float(np.max(np.abs(finals[0][name] - finals[1][name]), initial=0)) for name in finals[0])
    print(f"two trainings in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(json.dumps({"hashes": hashes, "difference": difference}))


def _report_runs(context: Context, name: str, first: dict[str, str], second: dict[str, str], note: str = "") -> None:
    """Reports how many arrays of two trainings are bitwise equal."""
    unequal = sorted(array for array in first if first[array] != second[array])
    result = (
        f"all {len(first)} arrays bitwise equal" if not unequal else f"{len(unequal)} of {len(first)} arrays differ"
    )
    context.report(name, result, note, unequal=unequal, num_arrays=len(first))
