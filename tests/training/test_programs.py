"""Programs of a run: compiled together, and all there before the first step."""

import jax
import pytest
from tiny_runs import load, setup_of

from jaxdp.parallel import spmd, state_placement
from jaxdp.parallel.compilation import Compilation


class Recorded(Compilation):
    """A compilation that records how many had started when each was first waited for."""

    started: list["Recorded"]
    waited: dict["Recorded", int]

    def __init__(self, *args):
        super().__init__(*args)
        self.started.append(self)

    def wait(self):
        self.waited.setdefault(self, len(self.started))
        return super().wait()


@pytest.mark.parametrize("initialises", [True, False])
def test_all_have_started_before_one_is_waited_for(config_file, monkeypatch, initialises):
    Recorded.started, Recorded.waited = [], {}
    for module in (spmd, state_placement):
        monkeypatch.setattr(module, "Compilation", Recorded)
    setup = setup_of(load(config_file, "parallel.check_every_steps=10"))
    setup.compile(initialises=initialises)
    # The step, the evaluation and the checksums of the replicas, which a run may wait for later.
    assert len(Recorded.started) == 3 + initialises
    assert list(Recorded.waited.values()) == [3 + initialises] * (2 + initialises)
    assert ("initialisation" in vars(setup)) is initialises


def test_a_program_that_the_compiler_refuses_ends_the_start(config_file, monkeypatch):
    setup = setup_of(load(config_file))
    setup.compile_step().wait()

    def refuse(lowered):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="too large"):
        setup.compile()
