"""What devices tell each other beside the batch."""

import jax
import numpy as np
import pytest
from tiny_training import topology

from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.signals import NUM_LIMBS, combine, host_signals, read_tally, signals_spec
from jaxdp.parallel.spmd import compile_spmd

NUMBERS = [0, 1, 0xFFFF, 0x10000, 2**32 - 1, 0x0123_4567_89AB_CDEF, 2**64 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_survives_its_limbs(number):
    signals = host_signals(3, request=2, tally=number)
    assert signals["request"].tolist() == [2, 2, 2]
    assert (signals["tally"].shape, signals["tally"].dtype) == ((3, NUM_LIMBS), np.uint32)
    assert signals["tally"].max() <= 0xFFFF
    assert read_tally(signals["tally"].sum(axis=0)) == number


def test_signals_are_of_the_shapes_that_the_step_is_compiled_for():
    signals = host_signals(2, request=0)
    for name, spec in signals_spec().items():
        assert signals[name].shape == (2, *spec.shape)
        assert signals[name].dtype == spec.dtype


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_largest_request_wins_and_tallies_add_up_modulo_2_to_the_64(count):
    here = topology(count)
    program = compile_spmd(combine, here, abstract_batch(signals_spec(), here), mapped=(0,))
    # As many processes of one device each.
    numbers, requests = [*NUMBERS[::-1], 7], [0, 1, 15, 0, 2, 1, 0, 0]
    rows = [host_signals(1, requests[index], numbers[index]) for index in range(count)]
    stacked = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    combined = jax.device_get(
        program({name: place_per_device(array, here) for name, array in stacked.items()})
    )
    assert combined["request"] == max(requests[:count])
    assert read_tally(combined["tally"]) == sum(numbers[:count]) % 2**64
