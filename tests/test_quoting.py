"""Quotation of data in messages: short whatever the data."""

import pytest

from jaxdp.quoting import quoted, quoted_names, shortened


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "'a'"),
        (["a", 1], "['a', 1]"),
        (1.5, "1.5"),
        ("x" * 1000, f"'{'x' * 79}... (1,002 characters)"),
        (10**400, f"1{'0' * 79}... (401 characters)"),
    ],
)
def test_values(value, expected):
    assert quoted(value) == expected


def test_a_number_that_python_refuses_to_write_in_decimal():
    assert quoted(10**6000) == "a whole number of 19932 bits"


def test_names():
    assert quoted_names(["a", "b"]) == "'a', 'b'"
    assert quoted_names([]) == ""
    assert quoted_names(range(1000)) == ", ".join(map(str, range(12))) + " and 988 more"
    assert len(quoted_names(["x" * 10_000] * 10_000)) < 1500
    assert quoted_names({"a": 1, "b": 2}, 1) == "'a' and 1 more"


def test_texts():
    assert shortened("abc", 3) == "abc" and shortened("abcd", 3) == "abc... (4 characters)"
