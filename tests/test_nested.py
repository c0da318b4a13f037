"""Dotted keys and differences of nested mappings."""

from jaxdp.nested import differences, flatten


def test_leaves_have_dotted_keys():
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}, "f": {}}) == {"a": 1, "b.c": [2], "b.d.e": None}
    assert flatten({"a": {"b": 1}}, "model.") == {"model.a.b": 1}


def test_differences_have_both_sides_in_the_order_of_the_keys():
    old = {"z": 1, "a": {"b": 2, "gone": 3}, "same": {"x": [1]}, "unset": None}
    new = {"z": 2, "a": {"b": 2, "new": 4}, "same": {"x": [1]}}
    assert differences(old, new) == [("z", 1, 2), ("a.gone", 3, None), ("a.new", None, 4)]


def test_a_group_against_no_group():
    assert differences({"a": {"b": 1}}, {"a": None}) == [("a.b", 1, None)]
