"""Plan of this machine: its memory is that of the program which a run compiles, and it reads no data."""

import functools
import json

import pytest
from tiny_runs import load

from jaxdp.cli.main import main
from jaxdp.data import assembly
from jaxdp.plan import plan as planning
from jaxdp.plan.data_free import assumed_vocabulary
from jaxdp.plan.report import plans_as_text
from jaxdp.plan.targets import parse_target
from jaxdp.training.fitting import remedies
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup


@pytest.fixture(scope="module")
def config(config_file):
    return load(config_file, "microbatch_size=2", "data.tokenizer=byte")


@pytest.fixture(scope="module")
def plan(config):
    # Two remedies suffice: the others are compiled in the same way.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "remedies", functools.partial(remedies, max_count=2))
        patch.setattr(assembly, "load_dataset", None)  # whoever reads data fails
        return planning.plan_target(config, parse_target("here"))


def test_memory_is_that_of_the_program_of_a_run(plan, config):
    setup = TrainingSetup(prepare_run(config))
    assert plan["bytes"]["total"] == setup.compile_step().device_bytes
    assert plan["programs"]["evaluation"]["total"] > setup.compile_eval_step().device_bytes
    kinds = [size for kind, size in plan["bytes"].items() if kind not in ("total", "device")]
    assert sum(kinds) == plan["bytes"]["total"] and min(kinds) >= 0
    assert plan["fits"] and plan["max_microbatch_size"] == 2


def test_collectives_flops_and_times_of_the_program(plan):
    [reduced] = [each for each in plan["collectives"] if each["bytes"] > 1000]
    assert reduced["kind"] == "all-reduce" and reduced["bytes"] >= 4 * plan["parameters"]
    assert plan["bytes_on_wire"] == pytest.approx(2 * 7 / 8 * (4 * plan["parameters"] + 12))
    # The model's FLOPs leave out the products of the optimizer (muon) only.
    assert plan["flops_per_step"] >= 0.9 * plan["model_flops_per_step"]
    times = plan["ceilings"]
    assert plan["step_secs_estimate"] == max(times["compute_secs"], times["memory_secs"]) + times["link_secs"]
    assert [row["devices"] for row in plan["scaling"]] == [2**power for power in range(13)]


def test_text_and_remedies(plan):
    settings = [remedy["setting"] for remedy in plan["remedies"]]
    assert (
        "microbatch_size=1" in settings
        and len(settings) == 2
        and all(remedy["saved"] > 0 for remedy in plan["remedies"])
    )
    text = plans_as_text([plan, {"target": "x", "refused": "No."}], with_scaling=True)
    for part in ("here: 8 x cpu", "fits: the step needs", "would help", "4,096", "x: no plan"):
        assert part in text


def test_a_limit_that_the_step_exceeds(config, monkeypatch):
    monkeypatch.setattr(planning, "device_limit", lambda *_: (1000, "a test"))
    monkeypatch.setattr(planning, "remedies", lambda *_, **__: [])
    plan = planning.plan_target(config, parse_target("here"))
    assert not plan["fits"] and plan["max_microbatch_size"] == 0
    text = plans_as_text([plan], with_scaling=False)
    assert "DOES NOT FIT" in text and "not even 1 sequence fits" in text


VOCABULARIES = {
    ("model.vocab_size=300",): 300,
    ("data.tokenizer=bpe:5000", "model.preset=gpt2"): 5000,
    ("data.tokenizer=hf:gpt2", "model.preset=gpt2"): 50257,
    ("data.tokenizer=char",): 256,
    ("data.tokenizer=byte",): 257,
}


@pytest.mark.parametrize("overrides", VOCABULARIES)
def test_vocabulary_without_data(overrides, config_file):
    found, assumed = assumed_vocabulary(load(config_file, *overrides))
    assert found == VOCABULARIES[overrides]
    assert bool(assumed) == (found not in (300, 257))  # known, not assumed


def test_command_line(plan, config_file, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(
        "jaxdp.plan.apart.plan_apart",
        lambda file, overrides, target: made.append((target.text, overrides)) or dict(plan),
    )
    given = ["plan", f"--config={config_file}", "--config.data.tokenizer=byte"]
    assert main([*given, "--for=here", "--cpu_devices=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plan | {"target": "here"}
    assert made == [("here", ["--config.data.tokenizer=byte", "--config.parallel.cpu_devices=4"])]
    assert main([*given, "--for=h1000:8"]) == 2
    assert "did you mean 'h100'?" in capsys.readouterr().err
