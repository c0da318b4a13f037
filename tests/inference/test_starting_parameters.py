"""Warm start by path rules: what becomes of every parameter, its report, and rules that are refused."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxdp.config import parse_config
from jaxdp.data.tokenizers.characters import CharTokenizer
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.errors import UserError
from jaxdp.inference import starting_parameters
from jaxdp.inference.starting_parameters import check_initial, start_from
from jaxdp.interop.init_rules import parse_rules
from jaxdp.interop.vocabulary_rows import token_ids
from jaxdp.trees import named_leaves, tree_of

WIDTH = 3
THERE = {
    "token_embedding": (5, WIDTH),
    "position_embedding": (4, WIDTH),
    "layer_0/kernel": (WIDTH, WIDTH),
    "layer_1/kernel": (WIDTH, WIDTH),
    "layer_2/kernel": (WIDTH, WIDTH),
    "final_norm/scale": (WIDTH,),
    "output/kernel": (WIDTH, 5),
}


@pytest.fixture
def source(tmp_path):
    """A file of parameters of jaxdp, and its arrays."""
    drawn = np.random.default_rng(0)
    arrays = {name: drawn.normal(size=shape).astype(np.float32) for name, shape in THERE.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors", arrays


def fresh(**changes):
    """A model as it was initialised: -1 everywhere, so that what is kept of it shows; None leaves a parameter out."""
    shapes = {**THERE, **{name.replace("__", "/"): shape for name, shape in changes.items()}}
    leaves = {name: jax.numpy.full(shape, -1.0) for name, shape in shapes.items() if shape is not None}
    return tree_of(leaves)


def settings(path, *rules):
    return parse_config({"total_steps": 1, "init_from": str(path), "init_rules": rules})


def started(source, like, *rules, vocabularies=None):
    """The parameters by path, and the whole result."""
    result = start_from(settings(source[0], *rules), like, vocabularies or Vocabularies())
    return {name: np.asarray(leaf) for name, leaf in named_leaves(result.params)}, result


def test_parameters_are_renamed_dropped_and_initialised(source):
    """The second layer becomes the first, the third is dropped, and the norm is that of the new model."""
    like = fresh(layer_1__kernel=None, layer_2__kernel=None)
    rules = ("drop:layer_[02]/.*", r"rename:layer_(\d)/(.*)->layer_0/\2", "init:final_.*")
    params, result = started(source, like, *rules)
    arrays = source[1]
    np.testing.assert_array_equal(params["layer_0/kernel"], arrays["layer_1/kernel"])
    np.testing.assert_array_equal(params["final_norm/scale"], -np.ones(WIDTH))
    np.testing.assert_array_equal(params["token_embedding"], arrays["token_embedding"])
    told = result.describe()
    assert told == (
        "took 4 parameters (51 numbers); renamed by rule 2 (rename:layer_(\\d)/(.*)->layer_0/\\2): layer_0/kernel; "
        "initialised by rule 3 (init:final_.*): final_norm/scale; dropped by rule 1 (drop:layer_[02]/.*): layer_{0,2}/kernel"
    )
    parameters = result.to_json()["parameters"]
    assert parameters["layer_0/kernel"] == {
        "origin": "renamed", "shape": [3, 3], "source": "layer_1/kernel", "source_shape": [3, 3], "rules": [rules[1]],
    }  # fmt: skip
    assert parameters["final_norm/scale"] == {"origin": "initialised", "shape": [3], "rules": ["init:final_.*"]}
    assert result.to_json()["dropped"] == {
        "layer_0/kernel": "drop:layer_[02]/.*", "layer_2/kernel": "drop:layer_[02]/.*", "final_norm/scale": "init:final_.*",
    }  # fmt: skip


@pytest.mark.parametrize("fill", ["init", "mean"])
def test_a_larger_vocabulary_and_more_positions(source, fill):
    like = fresh(token_embedding=(7, WIDTH), output__kernel=(WIDTH, 7), position_embedding=(6, WIDTH))
    params, result = started(source, like, f"resize_vocab:{fill}", f"extend_positions:{fill}")
    for name, axis, size in (("token_embedding", 0, 5), ("output/kernel", 1, 5), ("position_embedding", 0, 4)):
        array, rows = source[1][name], np.moveaxis(params[name], axis, 0)
        np.testing.assert_array_equal(rows[:size], np.moveaxis(array, axis, 0))
        expected = -1.0 if fill == "init" else array.mean(axis=axis)
        np.testing.assert_allclose(rows[size:], np.broadcast_to(expected, (2, WIDTH)), rtol=1e-6)
    new = {"init": "initialised", "mean": "the mean of these"}[fill]
    assert (
        f"resized: token_embedding from [5, 3] to [7, 3] by rule 1 (resize_vocab:{fill}): 5 first rows, 2 new rows: {new}"
        in result.describe()
    )


def test_a_smaller_vocabulary_and_fewer_positions(source):
    like = fresh(token_embedding=(4, WIDTH), output__kernel=(WIDTH, 4), position_embedding=(2, WIDTH))
    params, result = started(source, like, "resize_vocab:mean")
    np.testing.assert_array_equal(params["token_embedding"], source[1]["token_embedding"][:4])
    np.testing.assert_array_equal(params["output/kernel"], source[1]["output/kernel"][:, :4])
    np.testing.assert_array_equal(params["position_embedding"], source[1]["position_embedding"][:2])
    assert "position_embedding from [4, 3] to [2, 3]: 2 first rows" in result.describe()


def test_rows_follow_the_text_of_their_tokens(source, monkeypatch):
    """Both vocabularies have a, b and the end of the text, under other ids."""
    there, here = CharTokenizer.from_texts(["abcd"]), CharTokenizer.from_texts(["1bay"])
    monkeypatch.setattr(starting_parameters, "initial_vocabularies", lambda config: Vocabularies(tokenizer=there))
    size = here.vocab_size
    assert there.vocab_size == len(source[1]["token_embedding"])
    like = fresh(token_embedding=(size, WIDTH), output__kernel=(WIDTH, size))
    params, result = started(source, like, "match_tokens:mean", vocabularies=Vocabularies(tokenizer=here))
    known, ids = token_ids(there), token_ids(here)
    common = ids.keys() & known.keys()
    assert {"a", "b"} <= common and len(common) == 3 and ids["a"] != known["a"]
    for text, index in ids.items():
        row = source[1]["token_embedding"][known[text]] if text in common else None
        if row is None:
            row = source[1]["token_embedding"][[known[each] for each in common]].mean(axis=0)
        np.testing.assert_allclose(params["token_embedding"][index], row, rtol=1e-6)
        column = source[1]["output/kernel"][:, known[text]] if text in common else None
        if column is not None:
            np.testing.assert_array_equal(params["output/kernel"][:, index], column)
    assert "3 rows of tokens that both vocabularies have, 2 new rows: the mean of these" in result.describe()
    assert result.to_json()["parameters"]["token_embedding"]["rows_taken"] == 3


def test_scanned_layers_are_initialised_one_by_one(source):
    like = fresh(layer_0__kernel=None, layer_1__kernel=None, layer_2__kernel=None, layers__kernel=(3, WIDTH, WIDTH))
    params, _ = started(source, like, "init:layer_1/.*")
    arrays = source[1]
    expected = [arrays["layer_0/kernel"], -np.ones((WIDTH, WIDTH)), arrays["layer_2/kernel"]]
    np.testing.assert_array_equal(params["layers/kernel"], np.stack(expected))


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (("drop:encoder/.*",), r"rule 1 \(drop:encoder/\.\*\) of init_rules matches no parameter of init_from=.*such as final_norm"),
        (("init:encoder/.*",), "matches no parameter of the new model"),
        (("rename:layer_1/(.*)->layer_0/\\1",), "gives layer_0/kernel to two parameters of .*: layer_0/kernel and layer_1/kernel"),
        (("drop:layer_1/.*",), r"layer_1/kernel is absent there and \(3, 3\) here"),
        (("rename:layer_1/(.*)->layer_9/\\1",), r"layer_1/kernel is absent there .*; layer_9/kernel is \(3, 3\) there"),
        (("rename:final_norm/scale->layer_1/scale", "drop:layer_0/kernel", "rename:layer_1/scale->layer_0/kernel"),
         r"layer_0/kernel is \(3,\) there and \(3, 3\) here"),
        (("resize_vocab:mean",), "rule 1 .* changes nothing"),
        (("extend_positions:init",), "changes nothing; leave it out, or set data.length"),
        (("match_tokens:init",), "needs the tokenizers of both models"),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_are_refused(source, rules, told):
    with pytest.raises(UserError, match=told):
        check_initial(settings(source[0], *rules), fresh())


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (("classifier/.*",), "init_rules has 'classifier/.*'; expected rename:PATTERN->PATH, drop:PATTERN"),
        (("take:.*",), "expected rename"),
        (("rename:a",), "expected rename:PATTERN->PATH"),
        (("drop:(",), "regular expression is wrong"),
        (("rename:a(.*)->\\2",), "regular expression is wrong: invalid group reference"),
        (("resize_vocab:zero",), "expected resize_vocab:init or resize_vocab:mean"),
        ((3,), "expected strings"),
        (("match_tokens:init", "resize_vocab:init"), "exclude each other"),
        (("resize_vocab:init", "resize_vocab:mean"), "exclude each other"),
    ],
)
def test_rules_of_another_form_are_refused(rules, told):
    with pytest.raises(UserError, match=told.replace("(", r"\(").replace("*", r"\*")):
        parse_rules(rules)


def test_rules_without_a_source_are_refused():
    config = settings("somewhere", "drop:a")
    with pytest.raises(UserError, match="init_rules and init_average change what init_from takes"):
        dataclasses.replace(config, init_from=None)
