"""Out-of-memory errors of a run: the three cheapest remedies with the bytes that each saves."""

import jax
import pytest
from tiny_runs import load

from jaxdp.errors import UserError
from jaxdp.training import fitting, memory_advice
from jaxdp.training.device_memory import StepMemory
from jaxdp.training.memory_advice import advising_on_memory
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

GIB = 2**30


@pytest.fixture
def setup(config_file, monkeypatch):
    setup = TrainingSetup(prepare_run(load(config_file, "microbatch_size=2")))

    def compiled(changed):
        """A step whose memory is 8 GiB, less where a setting helps."""
        config = changed.config
        size = 8 * GIB - 3 * GIB * (changed.shape.microbatch_size == 1) - 4 * GIB * (config.model.remat == "dots")
        size -= 2 * GIB * (config.parallel.sync == "zero3")  # zero1 saves nothing here
        return fitting.CompiledStep(StepMemory(*[0] * 8, total=size), None)

    monkeypatch.setattr(fitting, "compile_fitting", compiled)
    monkeypatch.setattr(memory_advice, "compile_fitting", compiled)
    return setup


def test_the_cheapest_remedies_are_named_with_what_they_save(setup):
    with pytest.raises(UserError) as refusal, advising_on_memory(setup):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")
    sentence = str(refusal.value)
    assert "a step needs 8.0 GiB" in sentence and "allocating 7 bytes" in sentence
    places = [sentence.index(f"{setting} saves {saved}") for setting, saved in (
        ("microbatch_size=1", "3.0 GiB"), ("model.remat=dots", "4.0 GiB"), ("parallel.sync=zero3", "2.0 GiB"),
    )]  # fmt: skip
    assert places == sorted(places)
    assert "zero1" not in sentence and "remat=full" not in sentence  # saves nothing; is the fourth


@pytest.mark.parametrize(
    ("configured", "offered"),
    [
        ("none", ["dots_attention", "dots", "attention", "full"]),
        ("dots", ["attention", "full"]),
        ("full", []),
    ],
)
def test_policies_that_save_less_than_the_configured_one_are_offered(setup, configured, offered):
    """In this order, the one that recomputes least first."""
    config = setup.config.replaced(model={"remat": configured})
    compiled = []
    fitting.remedies(config, memory_advice._changed(setup, config), 8 * GIB, lambda changed: setup, compiled.append)
    assert [setting.removeprefix("model.remat=") for setting in compiled if "remat" in setting] == offered


def test_other_errors_pass(setup):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), advising_on_memory(setup):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")
