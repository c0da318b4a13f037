"""Control word: requests and batch hashes reduced over devices."""

import jax
import numpy as np
import pytest
from tiny_training import topology

from jaxdp.parallel.control_word import (
    NUM_PARTS,
    control_word_spec,
    host_control_word,
    join_parts,
    reduce_control_word,
)
from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.spmd import compile_spmd

NUMBERS = [0, 1, 0xFFFF, 0x10000, 2**32 - 1, 0x0123_4567_89AB_CDEF, 2**64 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_survives_its_limbs(number):
    control_word = host_control_word(3, request=2, batch_hash=number)
    assert control_word["request"].tolist() == [2, 2, 2]
    assert (control_word["batch_hash"].shape, control_word["batch_hash"].dtype) == ((3, NUM_PARTS), np.uint32)
    assert control_word["batch_hash"].max() <= 0xFFFF
    assert join_parts(control_word["batch_hash"].sum(axis=0)) == number


def test_signals_are_of_the_shapes_that_the_step_is_compiled_for():
    control_word = host_control_word(2, request=0)
    for name, spec in control_word_spec().items():
        assert control_word[name].shape == (2, *spec.shape)
        assert control_word[name].dtype == spec.dtype


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_largest_request_wins_and_hashes_add_up_modulo_2_to_the_64(count):
    here = topology(count)
    program = compile_spmd(reduce_control_word, here, abstract_batch(control_word_spec(), here))
    # As many processes of one device each.
    numbers, requests = [*NUMBERS[::-1], 7], [0, 1, 15, 0, 2, 1, 0, 0]
    rows = [host_control_word(1, requests[index], numbers[index]) for index in range(count)]
    stacked = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    combined = jax.device_get(program({name: place_per_device(array, here) for name, array in stacked.items()}))
    assert combined["request"] == max(requests[:count])
    assert join_parts(combined["batch_hash"]) == sum(numbers[:count]) % 2**64
