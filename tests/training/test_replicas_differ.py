"""A run on a device whose memory flips a bit: it stops before anything is saved, and goes on from the last good checkpoint."""

import jax
import pytest
from faults import KERNEL, SCALE, flip_after
from tiny_runs import assert_refused, assert_same_bits, metrics_lines, saved_arrays, train

ZERO1 = ["--config.parallel.sync=zero1", "--config.model.embed_dim=64"]
"""Parameters large enough that their optimizer states are sharded."""


@pytest.fixture(scope="module")
def trained_by_zero1(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("zero1")
    assert train(config_file, workdir, *ZERO1) == 0
    return workdir


@pytest.mark.parametrize(
    ("options", "name", "every", "flipped_after", "found_after"),
    [
        ([], KERNEL, 5, 4, 5),  # at the next check
        ([], KERNEL, 100, 4, 6),  # at the next save
        pytest.param([], KERNEL, 2, 6, 6, marks=pytest.mark.slow),  # after the last step
        pytest.param(ZERO1, SCALE, 5, 4, 5, marks=pytest.mark.slow),  # every device updates a small parameter whole
        pytest.param(
            ZERO1, KERNEL, 5, 5, 5, marks=pytest.mark.slow
        ),  # until the next step gathers the parameter again from its shards
    ],
    ids=["check", "save", "end", "zero1", "zero1 gathered"],
)
def test_a_flipped_bit_stops_the_run_and_nothing_of_it_is_saved(
    config_file, request, tmp_path, capsys, monkeypatch, options, name, every, flipped_after, found_after
):
    trained = request.getfixturevalue("trained_by_zero1" if options else "trained")
    with monkeypatch.context() as patch:
        flipped = flip_after(patch.setattr, flipped_after, 5, name)
        assert train(config_file, tmp_path, *options, f"--config.parallel.check_every_steps={every}") == 70
    assert flipped
    sentence = assert_refused(capsys, 70)
    device = jax.devices()[5].id
    assert sentence.startswith(
        f"the devices no longer hold the same state after step {found_after}: device {device} (process 0) differs "
        f"from the other 7 in {name}"
    )
    assert "nothing of it was saved" in sentence
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    # The same command again, as a launcher would give it.
    assert train(config_file, tmp_path, *options) == 0
    assert_same_bits(saved_arrays(tmp_path, 6), saved_arrays(trained, 6))
    losses = [[line["train/loss"] for line in metrics_lines(run)] for run in (tmp_path, trained)]
    assert losses[0] == losses[1]


def test_without_the_check_nobody_notices(config_file, trained, tmp_path, monkeypatch):
    """What the check is for: the run ends well, and its result is another."""
    flipped = flip_after(monkeypatch.setattr, 4, 0)
    assert train(config_file, tmp_path, "--config.parallel.check_every_steps=0") == 0
    assert flipped
    name = next(name for name in saved_arrays(trained, 6) if "params" in name and "up" in name and "kernel" in name)
    assert saved_arrays(tmp_path, 6)[name].tobytes() != saved_arrays(trained, 6)[name].tobytes()
