"""Search for the largest microbatch, against trying every size; refusals of compilers."""

import itertools

import jax
import pytest

from jaxdp.parallel.devices import divisors_up_to
from jaxdp.training.fitting import MAX_TRIES, largest_microbatch, needed_bytes, refused_bytes


@pytest.mark.parametrize("num_rows", [1, 7, 60, 96, 480])
def test_the_search_agrees_with_trying_every_size(num_rows):
    """Memory grows with the size; one microbatch that is the whole batch needs no sums of gradients."""
    sizes = divisors_up_to(num_rows, num_rows)
    for slope, fixed, start, limit in itertools.product((1, 30), (0, 500), sizes, (10, 400, 700, 3000, 20000)):

        def needed(size, slope=slope, fixed=fixed):
            return fixed + slope * size + (fixed // 9 if size < num_rows else 0)

        known = {start: needed(start)}
        found, tried = largest_microbatch(num_rows, limit, needed, known)
        assert found == max((size for size in sizes if needed(size) <= limit), default=0)
        assert len(tried) <= MAX_TRIES + 1


def test_bytes_of_refusals():
    temporaries = "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: the total memory required for HLO temporaries (23.60G) exceeds available HBM (15.75G)."
    assert refused_bytes(temporaries) == int(23.6 * 2**30)
    assert refused_bytes("RESOURCE_EXHAUSTED: Used 512.50M of 15.75G hbm.") == int(512.5 * 2**20)
    assert refused_bytes("INTERNAL: Used 512.50M of 15.75G hbm.") is None
    assert refused_bytes("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.") is None


def test_a_refused_program_needs_its_arguments_too():
    def compile_program():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 512.50M of 15.75G hbm.")

    assert needed_bytes(compile_program, arguments=1000) == 1000 + int(512.5 * 2**20)


def test_other_errors_of_the_compiler_pass():
    def compile_program():
        raise jax.errors.JaxRuntimeError("INTERNAL: it broke")

    with pytest.raises(jax.errors.JaxRuntimeError, match="it broke"):
        needed_bytes(compile_program, arguments=1000)
