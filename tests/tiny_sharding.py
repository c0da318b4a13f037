"""Tiny models whose parameters are sharded, and the steps of a run under any strategy."""

import re
from collections import Counter

import jax
import numpy as np
from tiny_runs import load, setup_of

from jaxdp.parallel import layout
from jaxdp.parallel.layout import to_true

SYNCS = ("pmean", "zero1", "zero3")


def sharded_setup(config_file, sync, *overrides):
    """The training setup of the tiny configuration with a strategy."""
    setup = setup_of(load(config_file, f"parallel.sync={sync}", *overrides))
    assert setup.topology.num_devices == 8
    assert (sync == "pmean") == layout.is_replicated(setup.placement.layout)
    return setup


def in_true_shapes(placement, state):
    """The form of a state in checkpoints, with the true shape of every leaf."""
    return to_true(placement.to_portable(state), placement.portable_layout)


def steps_of(setup, num_steps, change=lambda step, batch: batch):
    """(the metrics of every step, the state after them in true shapes on the host)."""
    program, state = setup.compile_step(), setup.fresh_state()
    control_word, batches, found = setup.control_word_maker()(0, 0), setup.loader.batches(0), []
    for step in range(num_steps):
        batch, hashed = setup.place(change(step, next(batches)))
        state, metrics = program(state, batch, control_word)
        found.append({name: float(value) for name, value in jax.device_get(metrics).items() if np.ndim(value) == 0})
        found[-1]["hash"] = hashed
    return found, jax.device_get(in_true_shapes(setup.placement, state))


def assert_same_steps(found, expected, rtol):
    """The same numbers at every step but for rounding; counters and hashes equal."""
    assert len(found) == len(expected)
    for name in expected[0]:
        values, wanted = ([each[name] for each in steps] for steps in (found, expected))
        if name in ("loss", "grad_norm"):
            np.testing.assert_allclose(values, wanted, rtol=rtol, err_msg=name)
        else:
            np.testing.assert_array_equal(values, wanted, err_msg=name)


def collectives(program, min_elements=2):
    """Counts the collectives of a compiled program as {(operation, is in a loop): number}; those of scalars are left out."""
    found, computation = Counter(), None
    for line in program.call.as_text().splitlines():
        if line and not line[0].isspace():
            computation = "ENTRY" if line.startswith("ENTRY") else "loop"
        match = re.search(
            r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(", line
        )
        if match:
            sizes = [
                np.prod([int(n) for n in dims.split(",") if n]) for dims in re.findall(r"f32\[([\d,]*)\]", match[1])
            ]
            if max(sizes, default=0) >= min_elements:
                found[match[2], computation] += 1
    return dict(found)
