"""The costliest operations of a step; the times themselves are no matter of tests."""

import pytest
from tiny_runs import load

from jaxdp.bench.operations import NUM_OPERATIONS, measure_operations
from jaxdp.cli.bench_text import operations_text


def test_operations_are_named_with_their_place_in_the_model(config_file):
    result = measure_operations(load(config_file))
    operations = result["operations"]
    assert len(operations) == NUM_OPERATIONS
    assert [each["ms"] for each in operations] == sorted((each["ms"] for each in operations), reverse=True)
    assert sum(each["share"] for each in operations) <= 1 and 0 < result["busy"] <= 1
    assert sum(each["ms"] for each in operations) == pytest.approx(
        result["operation_ms"] * sum(each["share"] for each in operations)
    )
    assert any("layer" in each["source"] for each in operations)
    first, *rest = operations_text(result).splitlines()
    assert first.startswith("8 x cpu; ") and len(rest) == NUM_OPERATIONS
