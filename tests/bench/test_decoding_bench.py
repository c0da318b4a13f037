"""The loop that bench compares with writes the same texts; what is measured is asked for and told. Times are no matter here."""

import json

import jax
import numpy as np
import pytest
import tiny_decoding
from tiers import others_slow
from tiny_runs import assert_refused
from tiny_tasks_data import CONFIG, write_records

from jaxdp.bench.decoding import cached, measure_prediction, uncached
from jaxdp.cli.main import main
from jaxdp.config import load_config, parse_config
from jaxdp.decoding.beam import BeamSearch, make_beam_search
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.model import Transformer, model_config

NUM_NEW, END = 7, 1


def both_ways(model, most, make_loop, batch):
    """What the loop writes with the cache, and without."""
    params = tiny_decoding.lively_params(model, seed=1)
    for decoding in (cached(model), uncached(model, most)):
        yield jax.tree.map(np.asarray, jax.jit(make_loop(*decoding))(params, batch))


@pytest.mark.parametrize("positions", others_slow(["learned", "relative"], "relative"))
def test_beams_without_a_cache_find_the_same(positions):
    shapes = {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "embed_dim": 16, "mlp_dim": 24}
    config = model_config(
        "seq2seq_nano",
        shapes | {"positions": positions, "tie_embeddings": False},
        vocab_size=13,
        max_length=5,
        max_target_length=NUM_NEW,
    )
    sources = np.random.default_rng(0).integers(2, 13, (3, 5)).astype(np.int32)
    batch = {
        "tokens": np.full((3, 1), END, np.int32),
        "prompt_mask": np.ones((3, 1), bool),
        "source_tokens": sources,
        "source_mask": np.arange(5) < np.array([[5], [2], [4]]),
    }

    def make_loop(*decoding):
        return make_beam_search(*decoding, BeamSearch(3, 0.6, 3), num_new=NUM_NEW, eos_id=END)

    expected, found = both_ways(Transformer(config), NUM_NEW, make_loop, batch)
    assert len({tuple(row) for row in found["tokens"].reshape(9, -1)}) > 5
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    np.testing.assert_allclose(found["log_probabilities"], expected["log_probabilities"], atol=1e-4)


def test_continuations_without_a_cache_are_the_same():
    """Prompts padded on the left too."""
    model = tiny_decoding.decoding_model(positions="rotary", tie_embeddings=False)
    lengths = np.array([5, 2, 4])
    mask = np.arange(5) >= 5 - lengths[:, None]
    tokens = np.where(mask, np.random.default_rng(0).integers(1, 13, mask.shape), 0).astype(np.int32)
    batch = {"tokens": tokens, "prompt_mask": mask, "seeds": np.zeros(3, np.uint32), "offset": np.zeros(3, np.int32)}

    def make_loop(*decoding):
        return make_decode(*decoding, Sampling(temperature=0), num_new=NUM_NEW, eos_id=None)

    expected, found = both_ways(model, tiny_decoding.CONTEXT, make_loop, batch)
    assert len({tuple(row) for row in found["tokens"][:, 0]}) == 3
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("prediction")
    write_records(root / "records.jsonl")
    (root / "config.py").write_text(CONFIG.format(path=str(root / "records.jsonl")))
    return root / "config.py"


def test_writing_is_measured(config_file):
    """Five texts on eight devices, none of which may end."""
    overrides = ["--config.task=seq2seq", "--config.eval.num_scored=5", "--config.model.num_decoder_layers=1"]
    result = measure_prediction(parse_config(load_config(str(config_file), overrides)))
    assert {"sentences": 5, "uncached_sentences": 5, "most_tokens": 24, "ends": False}.items() <= result.items()
    for name in ("greedy", "beam_4"):
        each = result[name]
        assert each["per_sec"] == pytest.approx(5 / each["secs"])
        assert each["ratio"] == pytest.approx(each["per_sec"] / each["uncached_per_sec"])


RESULT = {
    "devices": 2, "device_kind": "cpu", "ends": False, "sentences": 1000, "uncached_sentences": 64, "most_tokens": 96,
    "greedy": {"secs": 10.0, "per_sec": 100.0, "uncached_per_sec": 10.0, "ratio": 10.0},
    "beam_4": {"secs": 20.0, "per_sec": 50.0, "uncached_per_sec": 2.0, "ratio": 25.0},
}  # fmt: skip
CONTINUED = {
    "devices": 2, "device_kind": "cpu", "ends": False, "rows": 32, "prompt_tokens": 128, "most_tokens": 128,
    "greedy": RESULT["greedy"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (RESULT, [
            "texts       1000 sentences; 64 of them without a KV cache",
            "ends        always after 96 tokens",
            "greedy      100.00 sentences/s (10.0 s), without a KV cache 10.00: 10.0 times faster",
            "beam_4      50.00 sentences/s (20.0 s), without a KV cache 2.00: 25.0 times faster",
        ]),
        (CONTINUED | {"ends": True}, [
            "texts       32 prompts of 128 tokens",
            "ends        at the eos token, at most after 128 tokens",
            "greedy      100.00 tokens/s (10.0 s), without a KV cache 10.00: 10.0 times faster",
        ]),
    ],
)  # fmt: skip
def test_the_command_tells_what_was_measured(config_file, monkeypatch, capsys, result, lines):
    asked = []
    monkeypatch.setattr("jaxdp.bench.decoding.measure_prediction", lambda config: asked.append(config.seed) or result)
    command = ["bench", f"--config={config_file}", "--predict", "--config.seed=3"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == ["devices     2 x cpu", *lines]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert asked == [3, 3]


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--config.task=masked_lm"], "task=masked_lm generates no text"),
        (["--config.task=seq2seq", "--config.eval.num_scored=0"], "set eval.num_scored above 0"),
    ],
)
def test_what_writes_nothing_is_refused(config_file, capsys, options, fragment):
    assert main(["bench", f"--config={config_file}", "--predict", *options]) == 2
    assert fragment in assert_refused(capsys)
