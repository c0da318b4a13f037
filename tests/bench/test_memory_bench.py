"""Memory of a device by kind: the state as the layouts divide it, and kinds that add up to the peak of the program."""

import json

import jax
import pytest
from tiny_runs import load, model_of

from jaxdp.bench.memory import measure_memory
from jaxdp.cli.main import main
from jaxdp.model import num_parameters, parameter_shapes
from jaxdp.parallel import layout

KINDS = ("parameters", "optimizer", "ema", "sync_state", "gradients", "activations", "batch")


@pytest.fixture
def results(config_file, monkeypatch):
    monkeypatch.setattr(layout, "MIN_SHARDED_ELEMENTS", 64)
    config = load(config_file, "optim.name=adamw", "optim.ema_decay=0.9")
    return {result["sync"]: result for result in measure_memory(config)}, model_of(config, 257).config


def test_kinds_are_divided_as_the_strategy_divides_the_state(results):
    found, model = results
    assert set(found) == {"pmean", "zero1", "zero3"}
    whole = 4 * num_parameters(model)
    shapes = jax.tree.leaves(parameter_shapes(model))
    # The widths of the tiny model, 16 and 64, are divided by 8 devices; its vectors of 16 are below the limit.
    shard = sum(4 * leaf.size // (8 if leaf.size >= 64 else 1) for leaf in shapes)
    assert {name: found[name]["parameters"] for name in found} == {"pmean": whole, "zero1": whole, "zero3": shard}
    assert {name: found[name]["ema"] for name in found} == {"pmean": whole, "zero1": shard, "zero3": shard}
    # Two moments, and the number of updates once for Adam and once for the schedule.
    assert {name: found[name]["optimizer"] for name in found} == {
        "pmean": 2 * whole + 8, "zero1": 2 * shard + 8, "zero3": 2 * shard + 8,
    }  # fmt: skip


def test_kinds_add_up_to_the_peak(results):
    for result in results[0].values():
        scalars = 3 * 4  # step and counters of skipped updates are of no kind
        assert 0 <= result["total"] - sum(result[kind] for kind in KINDS) <= scalars
        assert result["gradients"] > 0 and result["used"] is None  # CPU devices report no memory


def test_a_strategy_that_refuses_says_why(config_file, capsys):
    given = ["--config.parallel.wire_dtype=bfloat16", "--memory"]
    assert main(["bench", f"--config={config_file}", *given, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["sync"] for line in lines if "refused" in line] == ["zero1", "zero3"]
    assert main(["bench", f"--config={config_file}", *given]) == 0
    assert "zero3 is not available: parallel.wire_dtype=bfloat16" in capsys.readouterr().out
