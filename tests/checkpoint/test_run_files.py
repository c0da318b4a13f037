"""Vocabularies and configuration of a run, compared with its checkpoints."""

import hashlib
import json
import os
import shutil

import pytest
from tiers import others_slow
from tiny_runs import assert_refused, saved_arrays, without_run_files

from jaxdp.checkpoint.manifest import (
    find_damage,
    read_manifest,
    write_manifest,
)
from jaxdp.checkpoint.run_files import check_run_config, check_run_files, run_problems
from jaxdp.cli.main import main
from jaxdp.errors import DamageFound, UserError
from jaxdp.workdir import WorkDir

DEVICES = "--cpu_devices=8"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a trained run, to be damaged."""
    return WorkDir(shutil.copytree(trained, tmp_path / "run"))


def newest(run):
    return run.checkpoints / "6"


def swap_two_ids(path):
    """Gives two tokens each other's ids; the file stays valid."""
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))


def edit_config(run, group, **values):
    config = json.loads(run.config.read_text())
    (config[group] if group else config).update(values)
    run.config.write_text(json.dumps(config))


def commands(run, config_file):
    """Every command that reads a run; the last would continue it."""
    return [
        ["eval", f"--workdir={run.root}", DEVICES],
        ["generate", f"--workdir={run.root}", "--prompt=the", "--max_new_tokens=2", DEVICES],
        ["inspect", str(run.root), "--verify", "--step=latest"],
        ["train", f"--config={config_file}", f"--workdir={run.root}", "--config.total_steps=9"],
    ]


def test_manifest_records_the_tokenizer(trained):
    for step in (3, 6):
        content = (trained / "tokenizer.json").read_bytes()
        assert read_manifest(trained / "checkpoints" / str(step)).run_files == {
            "tokenizer.json": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        }
        body = json.loads((trained / "checkpoints" / str(step) / "manifest.json").read_text())
        assert body["format"] == 2
    assert saved_arrays(trained, 6)  # plain Orbax restores it, without anything of ours


def test_a_changed_tokenizer_is_damage_to_every_command(run, config_file, capsys):
    swap_two_ids(run.tokenizer)
    for command in commands(run, config_file):
        assert main(command) == 4, command
        sentence = assert_refused(capsys, 4)
        assert f"{run.tokenizer} has " in sentence and "restore it from a copy" in sentence
    assert main(["inspect", str(run.root), "--verify"]) == 4
    out, err = capsys.readouterr()
    assert "intact" in out and str(run.tokenizer) in err


def test_a_missing_tokenizer_is_named_and_not_blamed_on_the_data(run, config_file, capsys):
    run.tokenizer.unlink()
    for command in commands(run, config_file):
        assert main(command) == 4, command
        sentence = assert_refused(capsys, 4)
        assert f"{run.tokenizer} is missing" in sentence and "ready-made" not in sentence


def test_a_directory_in_the_place_of_the_tokenizer_is_named(run, config_file, capsys):
    run.tokenizer.unlink()
    run.tokenizer.mkdir()
    for command in commands(run, config_file)[:3]:
        assert main(command) == 4, command
        assert f"{run.tokenizer} is a directory, and was a file when it was written" in assert_refused(capsys, 4)
    assert main(commands(run, config_file)[3]) == 2
    assert f"{run.tokenizer} must be a regular file" in assert_refused(capsys)


def test_a_directory_in_the_place_of_the_configuration_is_named(run, capsys):
    run.config.unlink()
    run.config.mkdir()
    for command in (*commands(run, "x")[:2], ["train", f"--workdir={run.root}"]):
        assert main(command) == 2, command
        assert "(config.json is a directory)" in assert_refused(capsys)


def test_checkpoints_of_earlier_versions_stay_readable(run, config_file, capsys):
    without_run_files(run.root)
    for step in (3, 6):
        assert (
            read_manifest(run.checkpoints / str(step)).run_files is None
            and find_damage(run.checkpoints / str(step)) == []
        )
    for command in commands(run, config_file):
        assert main(command) == 0, command
    assert read_manifest(run.checkpoints / "9").run_files.keys() == {"tokenizer.json"}
    capsys.readouterr()
    run.tokenizer.unlink()
    shutil.rmtree(run.checkpoints / "9")
    assert main(commands(run, config_file)[1]) == 2
    assert f"{run.tokenizer} is missing, which the run was trained with" in assert_refused(capsys)


def test_fields_of_later_versions_are_left_out(run):
    manifest = read_manifest(newest(run))
    body = json.loads((newest(run) / "manifest.json").read_text()) | {"later": {"a": 1}}
    del body["digest"]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (newest(run) / "manifest.json").write_text(json.dumps(body | {"digest": digest}, indent=1))
    assert read_manifest(newest(run)) == manifest


def test_a_resumed_run_leaves_its_vocabularies_as_they_are(run, config_file, capsys):
    """Another version of the tokenizer library may write the same tokenizer in other bytes."""
    before = run.tokenizer.stat().st_mtime_ns
    assert main([*commands(run, config_file)[3]]) == 0
    assert run.tokenizer.stat().st_mtime_ns == before
    assert run_problems(run.checkpoints / "9") == [] and run_problems(newest(run)) == []


@pytest.mark.parametrize(
    ("group", "key", "value", "shown"),
    [
        ("model", "rotary_base", 500.0, "model.rotary_base: 10000.0 in the checkpoint, 500.0 in the file"),
        ("data", "length", 32, "data.length: 16 in the checkpoint, 32 in the file"),
        ("", "task", "masked_lm", "task: 'causal_lm' in the checkpoint, 'masked_lm' in the file"),
        ("causal_lm", "separator", "x", r"causal_lm.separator: '\n' in the checkpoint, 'x' in the file"),
        ("model", "num_layers", 10**9, "model.num_layers: 1 in the checkpoint, 1000000000 in the file"),
    ],
)
def test_an_edited_configuration_is_refused_with_both_sides(run, config_file, capsys, group, key, value, shown):
    edit_config(run, group, **{key: value})
    for command in commands(run, config_file)[:2]:
        assert main(command) == 2, command
        assert shown in assert_refused(capsys)
    assert main(["inspect", str(run.root), "--verify"]) == 4
    assert shown in capsys.readouterr().err
    with pytest.raises(UserError, match="is not the configuration that checkpoint 6 was trained with"):
        check_run_config(newest(run), run.config)


def test_what_may_change_freely_may_differ(run, config_file, capsys):
    edit_config(run, "log", every_steps=7)
    edit_config(run, "checkpoint", keep_latest=7)
    edit_config(run, "data", path=json.loads(run.config.read_text())["data"]["path"], num_workers=3)
    for command in commands(run, config_file)[:3]:
        assert main(command) == 0, command
    capsys.readouterr()


def test_a_copied_checkpoint_has_no_run_to_be_compared_with(trained, tmp_path, capsys):
    copy = shutil.copytree(trained / "checkpoints" / "6", tmp_path / "checkpoints" / "6")
    assert run_problems(copy) == [] and main(["inspect", str(copy), "--verify"]) == 0


def test_a_missing_configuration_is_found(run, capsys):
    run.config.unlink()
    assert main(["inspect", str(run.root), "--verify"]) == 4
    assert f"{run.config} is missing" in assert_refused(capsys, 4)


@pytest.mark.parametrize("name", ["../../tokenizer.json", "/etc/hostname", "", "..", "a/../../b", "a\0b"])
def test_a_manifest_names_only_files_of_its_checkpoint(run, name, capsys):
    manifest = read_manifest(newest(run))
    write_manifest(
        newest(run),
        manifest.__class__(**{**vars(manifest), "files": {**manifest.files, name: {"bytes": 1, "sha256": "0"}}}),
    )
    [problem] = find_damage(newest(run))
    assert problem == f"the manifest of {newest(run)} lists {name!r}, a file outside of it"
    with pytest.raises(DamageFound):
        check_run_files_of(run, name)


def check_run_files_of(run, name):
    manifest = read_manifest(newest(run))
    write_manifest(
        newest(run), manifest.__class__(**{**vars(manifest), "run_files": {name: {"bytes": 1, "sha256": "0"}}})
    )
    check_run_files(newest(run), run)


@pytest.mark.parametrize("damage", others_slow(["missing", "directory", "pipe"], "missing"))
def test_a_checkpoint_that_lost_its_manifest_is_not_passed_over_in_silence(run, config_file, capsys, damage):
    path = newest(run) / "manifest.json"
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    for command in commands(run, config_file)[:2]:
        assert main(command) == 4
        assert f"{newest(run)} has no manifest.json" in assert_refused(capsys, 4)
        assert main([*command, "--step=3"]) == 0
        capsys.readouterr()
    assert main(commands(run, config_file)[3]) == 0  # sets it aside
    assert (run.checkpoints / "6.damaged").is_dir()
