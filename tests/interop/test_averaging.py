"""Averages of checkpoints, and parameters extracted to one file, against means computed here."""

import ml_dtypes
import numpy as np
import pytest

import jaxdp
from jaxdp.cli.main import main
from jaxdp.errors import UserError
from jaxdp.inspection.fingerprint import fingerprint
from jaxdp.interop.averaging import chosen_steps
from jaxdp.interop.exporting import export_model
from jaxdp.interop.extraction import extract_parameters
from jaxdp.interop.open_source import open_source
from jaxdp.trees import named_leaves


def parameters(trained, step, weights="ema"):
    return {
        name: np.asarray(leaf)
        for name, leaf in named_leaves(jaxdp.load_checkpoint(trained, step=step, weights=weights).params)
    }


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_the_mean_of_checkpoints(trained, tmp_path, weights):
    file = tmp_path / "mean.safetensors"
    assert main(["export", f"--workdir={trained}", "--average=last:2", f"--weights={weights}", f"--to={file}"]) == 0
    first, second = (parameters(trained, step, weights) for step in ("3", "6"))
    found = open_source(file)
    assert found.arrays.keys() == first.keys()
    for name in first:
        expected = ((first[name].astype(np.float64) + second[name]) / 2).astype(np.float32)
        assert np.array_equal(found.read(name), expected), name


def test_parameters_alone_are_those_of_the_run_and_are_cast(trained, tmp_path):
    assert main(["export", f"--workdir={trained}", f"--to={tmp_path / 'x.safetensors'}"]) == 0
    assert fingerprint(str(tmp_path / "x.safetensors"))["fingerprint"] == fingerprint(str(trained))["fingerprint"]
    assert main(["export", f"--workdir={trained}", "--dtype=bfloat16", f"--to={tmp_path / 'b.safetensors'}"]) == 0
    cast = open_source(tmp_path / "b.safetensors")
    for name, array in parameters(trained, "6").items():
        assert np.array_equal(cast.read(name), array.astype(ml_dtypes.bfloat16))


def test_choices_that_cannot_be_met(trained, tmp_path, capsys):
    checkpoints = trained / "checkpoints"
    assert chosen_steps(checkpoints, "last:1", "eval/loss") == [6]
    assert chosen_steps(checkpoints, "best:2", "eval/loss") == [6, 3]
    for choice, said in (
        ("last:3", "has 2 checkpoints"),
        ("mean:2", "expected last:K or best:K"),
        ("last:0", "expected"),
    ):
        with pytest.raises(UserError, match=said):
            chosen_steps(checkpoints, choice, "eval/loss")
    (tmp_path / "x.safetensors").touch()
    command = ["export", f"--workdir={trained}", f"--to={tmp_path / 'x.safetensors'}"]
    assert main(command) == 2 and "exists already" in capsys.readouterr().err
    command = ["export", f"--workdir={trained}", f"--to={tmp_path / 'y.safetensors'}", "--average=last:2", "--step=3"]
    assert main(command) == 2 and "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.safetensors", "folder"])
def test_an_unknown_dtype_is_refused_before_anything_is_written(trained, tmp_path, name):
    write = extract_parameters if name.endswith(".safetensors") else export_model
    with pytest.raises(UserError, match="dtype must be one of 'float32', 'bfloat16', 'float16'"):
        write(trained, tmp_path / name, dtype="float8")
    assert not list(tmp_path.iterdir())
