"""Checkpoints of parameters only: whole or absent, read by every command but training."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_runs import assert_refused, metrics_lines, train

import jaxdp
from jaxdp.checkpoint import parameters_only
from jaxdp.checkpoint.listing import list_checkpoints
from jaxdp.checkpoint.manifest import find_damage, read_item, read_manifest
from jaxdp.checkpoint.parameters_only import save_parameters
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.checkpoint.retention import Retention
from jaxdp.cli.main import main
from jaxdp.errors import UserError
from jaxdp.trees import named_leaves

DEVICES = "--cpu_devices=8"


def save_tree(checkpoints, step, params, config, **options):
    arrays = dict(named_leaves(params))
    specs = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    return save_parameters(checkpoints, step, specs, arrays.__getitem__, config, **options)


@pytest.fixture
def imported(trained, tmp_path):
    """Work directory of a run with nothing left but the EMA parameters."""
    workdir = tmp_path / "imported"
    shutil.copytree(trained, workdir, ignore=shutil.ignore_patterns("checkpoints", "metrics.jsonl", ".intact*"))
    checkpoint = trained / "checkpoints" / "6"
    save_tree(
        workdir / "checkpoints",
        0,
        jaxdp.load_checkpoint(trained, weights="ema").params,
        read_item(checkpoint, "config"),
        run_files=read_manifest(checkpoint).run_files,
    )
    return workdir


def test_it_holds_the_parameters_bitwise(imported, trained):
    checkpoint = imported / "checkpoints" / "0"
    manifest = read_manifest(checkpoint)
    assert (manifest.kind, manifest.step) == ("params", 0) and find_damage(checkpoint) == []
    saved = {leaf["path"]: leaf["checksum"] for leaf in read_manifest(trained / "checkpoints" / "6").leaves}
    assert {leaf["path"]: leaf["checksum"] for leaf in manifest.leaves} == {
        f"params/{path[4:]}": checksum for path, checksum in saved.items() if path.startswith("ema/")
    }
    expected = jaxdp.load_checkpoint(trained).params
    found = restore_part(checkpoint, "params", expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    jax.tree.map(np.testing.assert_array_equal, jaxdp.load_checkpoint(imported).params, expected)
    [entry] = list_checkpoints(imported / "checkpoints", Retention(), verify=True)
    assert entry["verdict"] == "intact"


def test_commands_read_it_as_the_run_that_it_comes_from(imported, trained, capsys):
    answers = []
    for workdir in (imported, trained):
        assert main(["eval", f"--workdir={workdir}", "--json", DEVICES]) == 0
        answers.append(json.loads(capsys.readouterr().out)["eval/loss"])
        command = ["generate", f"--workdir={workdir}", "--prompt=the", "--max_new_tokens=4", "--json", DEVICES]
        assert main(command) == 0
        answers.append(capsys.readouterr().out)
    assert answers[:2] == answers[2:]
    assert main(["inspect", str(imported), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["step"] == 0 and described["params"] and not described["opt_state"] and described["data"] is None
    assert main(["inspect", str(imported), "--verify"]) == 0


def test_no_run_continues_from_it_and_init_from_takes_it(imported, config_file, tmp_path, capsys):
    assert train(config_file, imported) == 2
    sentence = assert_refused(capsys)
    assert sentence.startswith(f"{imported}/checkpoints/0 holds parameters only, so no run continues from it; ")
    assert f"init_from={imported}" in sentence
    assert train(config_file, tmp_path / "next", f"--config.init_from={imported}", "--config.total_steps=1") == 0
    assert f"starting from {imported}: took" in capsys.readouterr().err and len(metrics_lines(tmp_path / "next")) == 1


def test_an_interrupted_write_leaves_no_checkpoint(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("killed")

    params = {"kernel": np.arange(6.0, dtype=np.float32), "scalar": np.float32(2)}
    with monkeypatch.context() as patch:
        patch.setattr(parameters_only, "write_manifest", fail)
        with pytest.raises(OSError, match="killed"):
            save_tree(tmp_path, 5, params, {})
    assert not (tmp_path / "5").exists()
    assert save_tree(tmp_path, 5, params, {}) == tmp_path / "5"
    assert [path.name for path in tmp_path.iterdir()] == ["5"]
    with pytest.raises(UserError, match="exists already"):
        save_tree(tmp_path, 5, params, {})
