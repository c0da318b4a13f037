"""Faults put into a run from outside; as a script, `jaxdp` with a fault: `faults.py FAULT ... -- train ...`.

A fault is written NAME or NAME=NUMBER,NUMBER...
"""

import dataclasses
import sys
import threading

import numpy as np
from replicas import flip_bit_of

from jaxdp.cli.main import main
from jaxdp.experiment import parts
from jaxdp.experiment.composition import Composition
from jaxdp.hooks.preemption import Preemption

KERNEL = "params/layer_0/mlp/up/kernel"


def hang_for_ever():
    threading.Event().wait()


def hang_before(patch, step):
    """The step never begins, as when a peer in a collective is gone."""
    asked = iter(range(1, step + 1))
    request = Preemption.request

    def hanging(hook):
        if next(asked) == step:
            hang_for_ever()
        return request(hook)

    patch(Preemption, "request", hanging)


def flip_after(patch, step, position):
    """A bit of one device's copy of a parameter flips after this step; says whether it has."""
    flipped = []
    compile_step = Composition.compile_step

    def faulty(composition):
        program = compile_step(composition)

        def call(state, batch, signals):
            state, metrics = program.call(state, batch, signals)
            if int(state.step) == step and not flipped:
                flipped.append(step)
                state = flip_bit_of(state, KERNEL, composition.topology.devices[position], element=3, bit=2)
            return state, metrics

        return dataclasses.replace(program, call=call)

    patch(Composition, "compile_step", faulty)
    return flipped


def poison(patch, *slots, num_rows=2):
    """The first rows of these slots hold a token that no embedding has, which makes them NaN; their numbers."""
    row_order, poisoned = parts.row_order, []

    def order(config, train):
        made, rows_of = row_order(config, train), train.rows
        places = np.arange(num_rows, dtype=np.int32)
        poisoned[:] = [row for slot in slots for row in made.rows(slot, places).tolist()]

        def rows(indices):
            examples = rows_of(indices)
            is_poisoned = np.isin(indices, poisoned)[:, None]
            return examples | {"tokens": np.where(is_poisoned, np.int32(10**6), examples["tokens"])}

        patch(train, "rows", rows)
        return made

    patch(parts, "row_order", order)
    return poisoned


FAULTS = {"hang_before": hang_before, "flip_after": flip_after, "poison": poison}

if __name__ == "__main__":
    end = sys.argv.index("--")
    for fault in sys.argv[1:end]:
        name, _, numbers = fault.partition("=")
        FAULTS[name](setattr, *map(int, numbers.split(",")))
    sys.exit(main(sys.argv[end + 1 :]))
