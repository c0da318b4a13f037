"""`microbatch_size=auto`: the largest microbatch that leaves a tenth of the memory, the same in every process."""

import pytest
from tiny_runs import load

from jaxdp.errors import UserError
from jaxdp.parallel.devices import divide_batch
from jaxdp.training import auto_microbatch
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup


def sized(config_file, monkeypatch, limit, agree=lambda value: value):
    """Returns the setup on devices with this memory, and the bytes of its step by microbatch size."""
    monkeypatch.setattr(auto_microbatch, "local_limit", lambda topology: (limit, "a test"))
    config = load(config_file, "microbatch_size=auto", "global_batch_size=32", "model.dropout_rate=0.0")
    return TrainingSetup(prepare_run(config), agree=agree)


def test_the_largest_that_leaves_a_tenth(config_file, monkeypatch, capsys):
    """Of four sequences a device, microbatches of 1, 2 and 4 are possible."""
    setup = sized(config_file, monkeypatch, 2**40)
    assert (setup.shape.microbatch_size, setup.config.microbatch_size) == (4, 4)
    needed = {size: setup.compile_step(shape=divide_batch(32, size, 8)).device_bytes for size in (1, 2, 4)}
    assert needed[1] < needed[2] < needed[4]
    capsys.readouterr()
    assert sized(config_file, monkeypatch, needed[4]).shape == divide_batch(32, 2, 8)  # fits, but leaves nothing
    assert "microbatch_size=auto: 2 of a device's 4 sequences" in capsys.readouterr().err
    # Process 0 has less memory than this one.
    first = iter([int(needed[1] / 0.9) + 1, 1])
    assert sized(config_file, monkeypatch, 2**40, lambda value: next(first)).shape.microbatch_size == 1
    with pytest.raises(UserError, match="not even one sequence fits the 900 B"):
        sized(config_file, monkeypatch, 1000)
