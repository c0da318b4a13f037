"""Models with sharded parameters: evaluated, asked and decoded like those with replicated ones."""

import json

import jax
import numpy as np
import pytest
from tiny_runs import assert_same_bits, train
from tiny_sharding import collectives

import jaxdp
from jaxdp import BeamSearch
from jaxdp.cli.main import main
from jaxdp.errors import UserError
from jaxdp.inference.decoder import Decoder

pytestmark = pytest.mark.usefixtures("small_shards")

TOKENS = np.arange(40, dtype=np.int32).reshape(4, 10) + 60
PROMPTS = ["the of", "and that his", "with"]


@pytest.fixture(scope="module")
def sharded_run(config_file, tmp_path_factory):
    """A run whose configuration says zero3."""
    workdir = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdp.parallel.layout.MIN_SHARDED_ELEMENTS", 64)
        assert train(config_file, workdir, "--config.parallel.sync=zero3") == 0
    return workdir


def arrays(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def is_sharded(model):
    return not all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(model.device_params))


def test_the_layout_of_the_run_unless_another_is_named(sharded_run, trained):
    assert [is_sharded(jaxdp.load(run, sync=sync)) for run in (sharded_run, trained) for sync in (None, "pmean", "zero3")] == [
        True, False, True, False, False, True,
    ]  # fmt: skip


def test_the_same_numbers_and_texts(sharded_run):
    whole, sharded = jaxdp.load(sharded_run, sync="pmean"), jaxdp.load(sharded_run)
    assert_same_bits(arrays(sharded.params), arrays(whole.params))  # in their true shapes
    np.testing.assert_allclose(sharded.apply(TOKENS), whole.apply(TOKENS), rtol=1e-5, atol=1e-6)
    measured, expected = sharded.evaluate(), whole.evaluate()
    assert measured.pop("split") == expected.pop("split")
    assert measured == pytest.approx(expected, rel=1e-6)
    for options in ({"max_new_tokens": 20}, {"max_new_tokens": 4, "strategy": BeamSearch(3)}):
        assert [each.text for each in sharded.generate(PROMPTS, **options)] == [
            each.text for each in whole.generate(PROMPTS, **options)
        ]
    outside = sharded.model.apply({"params": sharded.params}, TOKENS)  # as users apply the module themselves
    np.testing.assert_allclose(outside, whole.apply(TOKENS), rtol=1e-4, atol=1e-5)


def test_decoding_gathers_each_layer_within_its_loop(sharded_run, monkeypatch):
    """Otherwise all layers would be whole while it runs."""
    programs, compiled = [], Decoder._compile

    def recorded(decoder, *shape):
        programs.append(compiled(decoder, *shape))
        return programs[-1]

    monkeypatch.setattr(Decoder, "_compile", recorded)
    jaxdp.load(sharded_run).generate(PROMPTS, max_new_tokens=5)
    of_layer, others = 6, 2  # kernels; the embeddings of tokens and positions
    assert collectives(programs[0], min_elements=64) == {
        ("all-gather", "ENTRY"): of_layer + others,  # of the prompts
        ("all-gather", "loop"): of_layer + others,
    }


def test_commands(sharded_run, capsys):
    found = []
    for sync in ([], ["--sync=pmean"], ["--sync=zero3"]):
        assert main(["eval", f"--workdir={sharded_run}", "--json", "--cpu_devices=8", *sync]) == 0
        assert (
            main(
                [
                    "generate",
                    f"--workdir={sharded_run}",
                    "--prompt=the of",
                    "--max_new_tokens=8",
                    "--cpu_devices=8",
                    *sync,
                ]
            )
            == 0
        )
        first, _, rest = capsys.readouterr().out.partition("\n")
        found.append((json.loads(first)["eval/loss"], rest))
    assert found[0] == found[2] and found[0][1] == found[1][1]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)


def test_other_layouts_are_refused(sharded_run, capsys):
    with pytest.raises(UserError, match=r"sync must be one of 'pmean', 'zero3', found 'zero1'"):
        jaxdp.load(sharded_run, sync="zero1")
    with pytest.raises(UserError, match=r"sync must be one of 'pmean', 'zero3', found 3"):
        jaxdp.evaluate(sharded_run, sync=3)
    for command in ("eval", "generate", "predict"):
        assert (
            main(
                [
                    command,
                    f"--workdir={sharded_run}",
                    "--sync=zero1",
                    *(["--prompt=a"] if command == "generate" else []),
                ]
            )
            == 2
        )
        assert "--sync" in capsys.readouterr().err
