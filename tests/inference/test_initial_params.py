"""Checkpoints by their path."""

import dataclasses
import shutil

import numpy as np
import pytest
from tiny_runs import model_of, saved_arrays

import jaxdp
from jaxdp.checkpoint.lookup import find_checkpoint, weights_key
from jaxdp.errors import DamageFound, UserError
from jaxdp.inference import initial_params as initialise
from jaxdp.inference.restored_model import RestoredModel
from jaxdp.inference.trained_run import open_run
from jaxdp.interop import checkpoint_source


@pytest.mark.parametrize(("weights", "part"), [("ema", "ema"), ("raw", "params")])
def test_a_loaded_checkpoint_holds_the_saved_arrays(trained, weights, part):
    loaded = jaxdp.load_checkpoint(str(trained), step="3", weights=weights)
    saved = saved_arrays(trained, 3)
    assert (loaded.step, loaded.config.model.embed_dim) == (3, 16)
    assert loaded.metrics["eval/loss"] > 0
    assert isinstance(loaded.params["layer_0"]["mlp"], dict)
    flat = {f"['{part}']" + "".join(f"['{key}']" for key in path): leaf for path, leaf in flatten(loaded.params)}
    assert flat.keys() == {name for name in saved if name.startswith(f"['{part}']")}
    for name, leaf in flat.items():
        assert isinstance(leaf, np.ndarray)
        np.testing.assert_array_equal(leaf, saved[name])


def flatten(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, (*path, key))
        else:
            yield (*path, key), value


def test_a_checkpoint_by_itself_loads(trained, tmp_path):
    alone = shutil.copytree(trained / "checkpoints" / "3", tmp_path / "published")
    assert jaxdp.load_checkpoint(str(alone)).step == 3


def test_the_model_of_a_loaded_checkpoint_runs(trained):

    loaded = jaxdp.load_checkpoint(str(trained), step="best")
    model = model_of(loaded.config, loaded.config.model.vocab_size, "cpu")
    assert model.apply({"params": loaded.params}, np.zeros((1, 4), np.int32)).shape == (1, 4, 257)


def test_a_run_that_required_a_kernel_of_other_devices_is_used_on_these(trained):
    run = open_run(trained)
    elsewhere = dataclasses.replace(run, config=run.config.replaced(model={"attention": "cudnn", "dropout_rate": 0.0}))
    loaded = RestoredModel(elsewhere, cpu_devices=8)
    loaded.place(8)
    assert loaded.model.config.attention == "auto"


def test_paths_that_stand_for_a_checkpoint(trained):
    assert find_checkpoint(str(trained)) == trained / "checkpoints" / "6"
    assert find_checkpoint(str(trained), "3") == trained / "checkpoints" / "3"
    assert find_checkpoint(str(trained / "checkpoints" / "3")) == trained / "checkpoints" / "3"
    with pytest.raises(UserError, match="is neither a work directory with checkpoints nor a checkpoint"):
        find_checkpoint(str(trained / "logs"))


def test_a_damaged_manifest_is_told(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / "checkpoints" / "6" / "manifest.json").write_text("{}")
    with pytest.raises(DamageFound, match=r"6/manifest.json is missing or damaged"):
        weights_key(workdir / "checkpoints" / "6")
    with pytest.raises(DamageFound, match=r"6/manifest.json is missing or damaged"):
        jaxdp.load_checkpoint(str(workdir))


def test_without_a_moving_average_the_parameters_are_taken(tmp_path):
    from jaxdp.checkpoint.manifest import Manifest, write_manifest

    leaves = [{"path": "params/emaciated/ema", "shape": [], "dtype": "float32", "checksum": 0}]
    write_manifest(tmp_path, Manifest(1, 0.0, {}, leaves, {}))
    assert weights_key(tmp_path) == weights_key(tmp_path, "raw") == "params"


@pytest.mark.parametrize("read", ["weights_key", "initial_checksum", "load_checkpoint"])
def test_a_checkpoint_that_its_run_deletes_meanwhile_is_no_damage(tmp_path, monkeypatch, read):
    """The directory is gone after it was found: its run renames it before deleting."""
    gone = tmp_path / "checkpoints" / "6"
    for module in (initialise, checkpoint_source):
        monkeypatch.setattr(module, "find_checkpoint", lambda *arguments: gone)
    call = {
        "weights_key": lambda: initialise.weights_key(gone),
        "initial_checksum": lambda: checkpoint_source.CheckpointSource(str(tmp_path)).identity(),
        "load_checkpoint": lambda: initialise.load_checkpoint(str(tmp_path)),
    }[read]
    with pytest.raises(UserError, match="6 was deleted while it was read") as told:
        call()
    assert told.value.exit_code == 2
