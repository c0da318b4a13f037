"""What processes must have in common; threads stand for them."""

import re
import shutil
from pathlib import Path

import pytest
from tiny_processes import as_processes
from tiny_runs import load, train

import jaxdp
from jaxdp.errors import UserError
from jaxdp.training import preflight as agreement
from jaxdp.training import train as experiment_train
from jaxdp.training.preflight import check_same, check_shared_directory, source_hash, statement
from jaxdp.workdir import WorkDir


@pytest.fixture(scope="module")
def hashed():
    """The hash of the package's source files; each of its files is parsed."""
    return source_hash()


@pytest.fixture(autouse=True)
def hashed_once(monkeypatch, hashed):
    """One hash for the threads of all tests."""
    monkeypatch.setattr(agreement, "source_hash", lambda: hashed)


def test_processes_that_agree_go_on(config_file):
    said = statement(load(config_file), {"data fingerprint": "abc"}, 6)
    assert as_processes(3, lambda control_plane: check_same(control_plane, said)) == [None, None, None]


def test_processes_with_another_spmd_backend_do_not_start(config_file, monkeypatch):
    said = []
    for name in ("pmap", "shard_map"):
        monkeypatch.setenv("JAXDP_SPMD", name)
        said.append(statement(load(config_file), {}, 6))
    for error in as_processes(2, lambda control_plane: check_same(control_plane, said[control_plane.process_index])):
        assert re.search(r'JAXDP_SPMD: "pmap" in process 0 .*, "shard_map" in process 1', str(error))


def test_every_difference_is_told_to_all_with_both_sides(config_file):
    config = load(config_file, """data.mixture=({'source': 'text', 'path': 'text.txt', 'weight': 1.0},)""")

    def check(control_plane):
        mine = config
        if control_plane.process_index == 1:
            paths = dict.fromkeys(
                ("path", "eval_path", "target_path", "eval_target_path"), "/elsewhere/text.txt"
            )  # which may differ
            mixture = ({"source": "text", "path": "/elsewhere/text.txt", "weight": 1.0},)
            mine = mine.replaced(
                optim={"learning_rate": 0.5}, init_from="/elsewhere/run", data=paths | {"mixture": mixture}
            )
        said = statement(
            mine,
            {"data fingerprint": "abc" if control_plane.process_index != 2 else "def"},
            6,
            f"run {control_plane.process_index // 2}",
        )
        if control_plane.process_index == 2:
            said["jaxlib"] = "0.0.1"
        check_same(control_plane, said)

    for error in as_processes(3, check):
        assert isinstance(error, UserError) and error.exit_code == 2
        lines = str(error).splitlines()
        host = lines[1].split(" on ")[1].split(",")[0]
        jaxlib = agreement.version("jaxlib")
        assert lines == [
            "the 3 processes of this run do not agree:",
            f'  jaxlib: "{jaxlib}" in process 0 on {host}, "0.0.1" in process 2 on {host}',
            f"  optim.learning_rate: 0.001 in process 0 on {host}, 0.5 in process 1 on {host}",
            f'  data fingerprint: "abc" in process 0 on {host}, "def" in process 2 on {host}',
            f'  parameters of init_from: "run 0" in process 0 on {host}, "run 1" in process 2 on {host}',
            "Give all of them the same command, code, packages and data.",
        ]


def test_processes_with_another_checkpoint_behind_init_from_do_not_start(config_file, trained, tmp_path, monkeypatch):
    """They are told before a device is connected, not by the first comparison of replicas."""
    said = []

    def listen(control_plane, statement):
        said.append(statement)
        raise UserError("heard enough.")

    monkeypatch.setattr(experiment_train, "check_same", listen)
    copied = shutil.copytree(trained, tmp_path / "copied")
    sources = {"none": [], "there": [trained], "copy": [copied], "other": [trained / "checkpoints" / "3"]}
    for name, init_from in sources.items():
        options = [f"--config.init_from={path}" for path in init_from]
        assert train(config_file, tmp_path / name, *options) == 2
    none, there, copy, other = said
    assert there == copy
    differing = {key for key in there if there[key] != other[key]}
    assert differing == {key for key in there if there[key] != none[key]} == {"parameters of init_from"}


def test_a_run_that_continues_does_not_look_at_init_from(config_file, trained, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(experiment_train, "check_same", lambda control_plane, statement: said.append(statement))
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert train(config_file, workdir, "--config.init_from=/no/where") == 0
    assert said[0]["parameters of init_from"] is None


def test_many_differences_are_counted():
    def check(control_plane):
        check_same(control_plane, {f"key {number}": control_plane.process_index for number in range(20)})

    for error in as_processes(2, check):
        assert len(str(error).splitlines()) == 11 and "\n  and 12 more\n" in str(error)


def test_a_change_of_code_in_any_source_file_is_noticed(tmp_path, hashed):
    copy = shutil.copytree(
        Path(jaxdp.__file__).parent, tmp_path / "jaxdp", ignore=shutil.ignore_patterns("__pycache__")
    )
    with open(copy / "model" / "block.py", "a") as file:
        file.write("\n# a comment\n")
    assert source_hash(copy) == hashed
    with open(copy / "model" / "block.py", "a") as file:
        file.write("CHANGED = True\n")
    assert source_hash(copy) != hashed


def test_a_directory_that_all_see(tmp_path):
    assert as_processes(2, lambda control_plane: check_shared_directory(control_plane, WorkDir(tmp_path))) == [
        None,
        None,
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_another_one_elsewhere(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()

    def check(control_plane):
        check_shared_directory(control_plane, WorkDir(tmp_path / "ab"[control_plane.process_index]))

    for error in as_processes(2, check):
        assert isinstance(error, UserError)
        assert "process 1 on " in str(error) and "does not see what process 0 on " in str(error)


def test_the_process_that_differs_from_the_majority_is_named():
    def check(control_plane):
        check_same(control_plane, {"seed": int(control_plane.process_index == 0)})

    for error in as_processes(3, check):
        assert re.search(
            r"Process 0 on \S+ differs from the other 2, which agree: give all of them the same", str(error)
        )
