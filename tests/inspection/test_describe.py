"""Inspection of a path from metadata alone."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_runs
from safetensors.numpy import save_file

from jaxdp.checkpoint import manifest, restoring
from jaxdp.checkpoint.manifest import read_manifest, write_manifest
from jaxdp.cli.main import main
from jaxdp.config import default_values
from jaxdp.errors import DamageFound, UserError
from jaxdp.inference.initial_params import load_checkpoint
from jaxdp.inspection import verifying
from jaxdp.inspection.describe import describe
from jaxdp.inspection.text import as_lines
from jaxdp.inspection.verifying import verify
from jaxdp.report.goodput import goodput

compilation_cache, config_file, trained = tiny_runs.compilation_cache, tiny_runs.config_file, tiny_runs.trained

KEYS = {
    "path",
    "kind",
    "steps",
    "step",
    "time",
    "config",
    "params",
    "opt_state",
    "ema",
    "data",
    "metrics",
    "provenance",
    "starts",
}


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(trained, tmp_path / "run")


def test_a_work_directory(trained):
    found = describe(str(trained))
    assert found.keys() == KEYS
    assert (found["step"], found["steps"]) == (6, [3, 6])
    assert found["path"] == str(trained / "checkpoints" / "6")
    assert found["config"] == json.loads((trained / "config.json").read_text())
    assert found["data"]["step"] == 6 and len(found["data"]["fingerprint"]) == 64
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["metrics"] == {name: value for name, value in last.items() if name.startswith("eval/")}
    sizes = {array["path"]: (array["shape"], array["dtype"], array["bytes"]) for array in found["params"]}
    assert sizes["layer_0/attention/query/kernel"] == ([16, 16], "float32", 1024)
    assert {array["path"] for array in found["ema"]} == sizes.keys()
    assert {array["bytes"] for array in found["opt_state"] if array["dtype"] == "int32"} == {4}
    json.dumps(found, allow_nan=False)


def test_a_chosen_step(trained):
    assert describe(str(trained), "3")["step"] == 3
    assert describe(str(trained), "best")["step"] == 6
    with pytest.raises(UserError, match=r"--step=4: .* has no such checkpoint; it has 3, 6, "):
        describe(str(trained), "4")


def test_best_goes_by_the_metric_of_the_run(workdir):
    config = json.loads((workdir / "config.json").read_text())
    config["eval"]["metric"] = "eval/unknown"
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="was saved with eval/unknown"):
        describe(str(workdir), "best")


def test_a_checkpoint_by_itself(trained, tmp_path):
    found = describe(str(trained / "checkpoints" / "3"))
    assert (found["step"], found["steps"]) == (3, [3, 6])
    alone = shutil.copytree(trained / "checkpoints" / "3", tmp_path / "published" / "3")
    assert describe(str(alone))["params"] == found["params"]


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"b.weight": np.zeros((2, 3), np.float32), "a.bias": np.zeros(4, np.int64), "c": np.float16(1.0)}
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    found = describe(str(path))
    assert found["params"] == [
        {"path": "a.bias", "shape": [4], "dtype": "int64", "bytes": 32},
        {"path": "b.weight", "shape": [2, 3], "dtype": "float32", "bytes": 24},
        {"path": "c", "shape": [], "dtype": "float16", "bytes": 2},
    ]
    assert all(found[key] is None for key in KEYS - {"path", "kind", "params"})
    assert found["kind"] == "safetensors"


def test_safetensors_of_bfloat16(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(30))
    [array] = describe(str(tmp_path / "m.safetensors"))["params"]
    assert array == {"path": "w", "shape": [3, 5], "dtype": "bfloat16", "bytes": 30}


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\2\0\0\0\0\0\0\0[]", b'\x0e\0\0\0\0\0\0\0{"w": {"a":1}}'])
def test_what_only_has_the_name_of_safetensors(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is not a whole safetensors file"):
        describe(str(path))


def test_foreign_orbax_directories(tmp_path):
    tree = {"w": jnp.zeros((2, 3)), "n": {"b": jnp.zeros(4, jnp.bfloat16)}}
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "plain", tree)
        saver.wait_until_finished()
    with ocp.CheckpointManager(tmp_path / "managed") as manager:
        manager.save(5, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    arrays = [
        {"path": "n/b", "shape": [4], "dtype": "bfloat16", "bytes": 8},
        {"path": "w", "shape": [2, 3], "dtype": "float32", "bytes": 24},
    ]
    for path in (tmp_path / "plain", tmp_path / "managed" / "5"):
        found = describe(str(path))
        assert found["params"] == arrays
        assert found["step"] is None and found["config"] is None
        assert verify(str(path)).endswith("all 2 arrays can be read; this format has no checksums of their values")


@pytest.mark.parametrize("name", ["nothing", "empty", "file.txt"])
def test_paths_that_hold_nothing(tmp_path, name, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert "is none of these: a work directory, a checkpoint, a Hugging Face folder" in capsys.readouterr().err


def test_a_work_directory_without_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint: train first"):
        describe(str(tmp_path))
    (tmp_path / "checkpoints").rmdir()
    for name in ("config.json", "provenance.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match="is a run that has no checkpoint yet: wait for the first save"):
        describe(str(tmp_path))


@pytest.fixture
def unsaved(workdir):
    """A run before its first save."""
    for checkpoint in (workdir / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    return workdir


def test_a_run_without_a_checkpoint_shows_what_it_has(unsaved, capsys):
    assert main(["inspect", str(unsaved)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[:3] == [f"path      {unsaved}", "kind      run", "step      no checkpoint yet; step 6 of 6 is logged"]
    assert lines[3].startswith("metrics   train/loss ") and "eval/loss " in lines[3] and "data/" not in lines[3]
    assert lines[4].startswith("goodput ") and "  global_batch_size = 16" in lines
    assert lines[-3] == "starts" and lines[-2].endswith(f"Python {sys.version.split()[0]}")
    assert main(["inspect", str(unsaved), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= KEYS | {"goodput", "checkpoints", "metric"}
    assert (found["kind"], found["steps"], found["step"], found["logged_step"]) == ("run", [], None, 6)
    assert found["params"] == found["opt_state"] == found["checkpoints"] == [] and found["data"] is None
    assert found["config"] == json.loads((unsaved / "config.json").read_text())
    assert found["metrics"]["eval/loss"] > 0 and found["metrics"]["data/batch_hash"]
    assert len(found["starts"]) == 1 and found["goodput"]["starts"] == 1


def test_a_run_before_its_first_line(unsaved, capsys):
    shutil.rmtree(unsaved / "checkpoints")
    (unsaved / "metrics.jsonl").unlink()
    assert main(["inspect", str(unsaved)]) == 0
    assert "step      no checkpoint yet; no step is logged" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("option", ["--stats", "--diff=.", "--verify", "--fingerprint", "--step=latest", "--step=6"])
def test_options_that_need_a_checkpoint(unsaved, capsys, option):
    for _ in range(2):
        assert main(["inspect", str(unsaved), option]) == 2
        out, err = capsys.readouterr()
        assert out == "" and "is a run that has no checkpoint yet: wait for the first save" in err
        shutil.rmtree(unsaved / "checkpoints", ignore_errors=True)


def test_verify_reads_every_file(workdir, capsys):
    assert main(["inspect", str(workdir), "--verify", "--step=latest"]) == 0
    files = [path for path in (workdir / "checkpoints" / "6").rglob("*") if path.is_file()]
    out = capsys.readouterr().out
    assert out == f"{workdir / 'checkpoints' / '6'}: all {len(files) - 1} files are as they were written\n"
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"\1")
        for step in (["--step=latest"], []):
            assert main(["inspect", str(workdir), "--verify", *step]) == 4
            out, err = capsys.readouterr()
            assert str(path) in err and len(err.splitlines()) == 1
            assert ("damaged" in out) == (not step)
        path.write_bytes(content)
    assert main(["inspect", str(workdir), "--verify", "--step=3"]) == 0
    assert verify(str(workdir / "checkpoints" / "6")).endswith("files are as they were written")


def test_a_work_directory_lists_its_checkpoints(workdir, capsys):
    checkpoints = workdir / "checkpoints"
    shutil.copytree(checkpoints / "3", checkpoints / "2.damaged")
    (checkpoints / "5.orbax-checkpoint-tmp").mkdir()
    (checkpoints / "notes").mkdir()
    assert main(["inspect", str(workdir)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[:5]]
    assert lines[0] == ["checkpoint", "age", "size", "eval/loss", "verdict", "kept", "by"]
    assert [line[0] for line in lines[1:]] == ["2.damaged", "3", "5.orbax-checkpoint-tmp", "6"]
    assert lines[2][-3:] == ["complete", "latest,", "rollback"] and lines[4][-3:] == ["complete", "latest,", "best"]
    assert lines[1][-3:] == ["set", "aside", "-"] and lines[3][-2:] == ["unfinished", "-"]

    path = checkpoints / "3" / "state" / "_METADATA"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    assert main(["inspect", str(workdir), "--json"]) == 0  # sizes are as they were: reading tells
    found = json.loads(capsys.readouterr().out)
    assert [entry["verdict"] for entry in found["checkpoints"]] == ["set aside", "complete", "unfinished", "complete"]
    assert main(["inspect", str(workdir), "--json", "--verify"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert [entry["verdict"] for entry in found["checkpoints"]] == ["set aside", "damaged", "unfinished", "intact"]
    assert found["checkpoints"][1]["damage"] == [f"{path} has another SHA-256 than when it was written"]
    assert found["checkpoints"][3]["metric"] == describe(str(workdir))["metrics"][found["metric"]]


@pytest.mark.parametrize("file", ["manifest.json", "config/metadata", "data/metadata"])
def test_damage_to_what_is_read_is_told(workdir, file, capsys):
    path = workdir / "checkpoints" / "6" / file
    path.write_text(path.read_text()[:-3])
    with pytest.raises(DamageFound, match=file):
        describe(str(workdir))
    assert main(["inspect", str(workdir), "--json"]) == 4
    assert capsys.readouterr().out == ""


def test_as_text_tells_the_essentials(trained, capsys):
    assert main(["inspect", str(trained)]) == 0
    text = capsys.readouterr().out
    lines = text.split("\n\n")[1].splitlines()
    assert lines[0] == f"path      {trained / 'checkpoints' / '6'}"
    assert lines[2] == "step      6 (checkpoints: 3, 6)"
    assert lines[4].startswith("metrics   accuracy ")
    assert [line for line in lines if line.startswith("goodput ")] == [f"goodput   {goodput(trained).describe()}"]
    assert "  model.dropout_rate = 0.1" in lines and "  optim.learning_rate = 0.001" not in lines
    [head] = [line for line in lines if line.startswith("params ")]
    params = describe(str(trained))["params"]
    assert head == f"params    {len(params)} arrays, 7,488 elements, 29,952 bytes (29.2 KiB), float32"
    assert sum(array["bytes"] for array in params) == 29952
    row = ["layer_0/attention/query/kernel", "[16,", "16]", "float32", "256", "1.0", "KiB"]
    assert any(line.split() == row for line in lines)
    assert not any("mu/" in line for line in lines) and [line for line in lines if line.startswith("opt_state ")]
    assert main(["inspect", str(trained), "--full"]) == 0
    assert "mu/layer_0/attention/query/kernel" in capsys.readouterr().out


def test_json_is_one_object(trained, capsys):
    assert main(["inspect", str(trained), "--json", "--step=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == KEYS | {"metric", "checkpoints", "goodput"} and found["step"] == 3
    assert found["goodput"] == goodput(trained).as_json() and found["goodput"]["steps"] == 6
    assert main(["inspect", str(trained / "checkpoints" / "3"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["goodput"] is None


def test_our_checkpoints_need_no_jax(trained):
    code = (
        "import sys; from jaxdp.cli.main import main\n"
        f"code = main(['inspect', {str(trained)!r}]) or main(['inspect', {str(trained)!r}, '--verify'])\n"
        "sys.exit(code or bool({'jax', 'flax', 'orbax'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_that_goes_away_is_no_error(trained):
    """`jaxdp inspect DIR | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        finished = subprocess.run(
            [sys.executable, "-m", "jaxdp", "inspect", str(trained)],
            env=os.environ | {"PYTHONUNBUFFERED": ""}, stdout=pipe, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("read", [describe, verify])
def test_a_checkpoint_that_a_run_deletes_meanwhile_is_no_damage(workdir, monkeypatch, read):
    """The next one that was asked for takes its place."""
    checkpoints, whole = workdir / "checkpoints", manifest.read_manifest

    def delete_first(path):
        if path.name == "6" and path.exists():
            path.rename(checkpoints / "6.deleting")
        return whole(path)

    for module in (verifying, manifest):  # `require_manifest` is of the second
        monkeypatch.setattr(module, "read_manifest", delete_first)
    found = read(str(workdir))
    assert found["step"] == 3 if read is describe else f"{checkpoints}/3: all" in found
    (checkpoints / "6.deleting").rename(checkpoints / "6")
    with pytest.raises(UserError, match=r"--step=6: .* has no such checkpoint; it has 3"):
        read(str(workdir), "6")


@pytest.mark.parametrize("moment", ["find_damage", "_read"])
def test_weights_that_a_run_deletes_meanwhile_are_no_damage(workdir, monkeypatch, capsys, moment):
    whole = getattr(restoring, moment)

    def delete_first(path, *arguments, **options):
        if path.exists():
            path.rename(path.with_name("6.deleting"))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(restoring, moment, delete_first)
    with pytest.raises(
        UserError, match="checkpoints/6 was deleted while it was read, probably by the run that"
    ) as told:
        load_checkpoint(str(workdir))
    assert told.value.exit_code == 2


@pytest.mark.parametrize("name", ["²", "٣", "7"])
def test_what_others_put_among_the_checkpoints_changes_nothing(config_file, workdir, name, capsys):
    foreign = workdir / "checkpoints" / name
    foreign.mkdir()
    (foreign / "file").write_text("mine")
    assert describe(str(workdir))["step"] == 6
    assert main(["inspect", str(workdir), "--verify"]) == 0
    assert tiny_runs.train(config_file, workdir) == 0
    assert (foreign / "file").read_text() == "mine"


def test_of_a_linked_checkpoint_a_run_deletes_the_link(config_file, tmp_path, capsys):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    options = [
        "--config.optim.schedule=constant", "--config.eval.every_steps=0", "--config.checkpoint.keep_latest=1",
        "--config.optim.max_skipped_in_a_row=1",
    ]  # fmt: skip
    assert tiny_runs.train(config_file, workdir, *options, "--config.total_steps=3") == 0
    linked = workdir / "checkpoints" / "3"
    linked.rename(elsewhere)
    linked.symlink_to(elsewhere)
    for total_steps in (9, 10):  # the first start deletes it, and the next one meets nothing of it
        assert tiny_runs.train(config_file, workdir, *options, f"--config.total_steps={total_steps}") == 0
    assert "3" not in {path.name for path in (workdir / "checkpoints").iterdir()}
    assert main(["inspect", str(elsewhere), "--verify"]) == 0


def test_the_starts_of_a_run_and_the_one_that_saved_a_checkpoint_are_shown(config_file, tmp_path, capsys):
    options = ["--config.optim.schedule=constant", "--config.eval.every_steps=0"]
    for total_steps in (3, 5):
        assert tiny_runs.train(config_file, tmp_path, *options, f"--config.total_steps={total_steps}") == 0
    starts = json.loads((tmp_path / "provenance.json").read_text())
    assert [start["first_step"] for start in starts] == [0, 3]
    assert all(start["devices"] == {"platform": "cpu", "kind": "cpu", "count": 8} for start in starts)
    assert all(start["num_processes"] == 1 for start in starts)
    for step, start in zip(("3", "5"), starts, strict=True):
        found = describe(str(tmp_path), step)
        assert found["starts"] == starts
        assert found["provenance"] == {key: start[key] for key in start if key != "first_step"}
    capsys.readouterr()
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert (
        "\nsaved by\n" in out
        and "\nstarts\n" in out
        and ", from step 3, host " in out
        and "8 x cpu, jaxdp 0.1.0" in out
    )


def test_a_checkpoint_of_before_provenance_is_described_and_continued(config_file, workdir, capsys):
    checkpoint = workdir / "checkpoints" / "6"
    manifest = read_manifest(checkpoint)
    shutil.rmtree(checkpoint / "provenance")
    files = {name: file for name, file in manifest.files.items() if not name.startswith("provenance/")}
    write_manifest(checkpoint, dataclasses.replace(manifest, files=files))
    (workdir / "provenance.json").unlink()
    found = describe(str(workdir))
    assert found["step"] == 6 and found["provenance"] is None and found["starts"] == []
    assert main(["inspect", str(workdir)]) == 0
    assert "saved by" not in capsys.readouterr().out
    assert main(["inspect", str(workdir), "--verify"]) == 0
    assert tiny_runs.train(config_file, workdir, "--config.total_steps=6") == 0


@pytest.mark.parametrize("content", ["{", "[1]", '[{"host": "\\u001b[2J", "command": ["\\u001b]0;t\\u0007"]}]'])
def test_a_stranger_s_provenance_is_no_obstacle_and_moves_no_cursor(workdir, content, capsys):
    (workdir / "provenance.json").write_text(content)
    assert main(["inspect", str(workdir)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_values_of_the_preset_are_left_out_and_long_lines_wrapped(trained):
    description = describe(str(trained))
    lines = as_lines(description, default_values(), width=60)
    assert "  model.embed_dim = 16" in lines and "  model.preset = nano" in lines
    model = [line.split()[0] for line in lines if line.startswith("  model.")]
    assert not {"model.mlp_dim", "model.head_dim", "model.attention_scale", "model.rotary_base"} & set(model)
    description["config"]["model"]["mlp_dim"] = 63
    assert "  model.mlp_dim = 63" in as_lines(description, default_values())
    words = [line for line in lines if " " in line.strip()]
    assert max(map(len, words)) <= 60
