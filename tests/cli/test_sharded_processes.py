"""A run of two real processes whose state is sharded: each saves its shards, and any number of devices goes on from them.

Each start of two processes costs seconds, so there are three, and two against object storage.
"""

import re
import shutil
import signal

import jax
import numpy as np
import pytest
from s3_server import s3, s3_server
from tiers import other_rows_slow, others_slow
from tiny_processes import free_address
from tiny_runs import environment, metrics_lines, start, start_with, train

import jaxdp
from jaxdp.checkpoint.arrays import read_leaves
from jaxdp.checkpoint.manifest import committed_steps, find_damage, read_manifest
from jaxdp.cli.main import main
from jaxdp.parallel.devices import Topology
from jaxdp.storage.cloud_store import open_store
from jaxdp.storage.location import remote_location
from jaxdp.training import setup as setup

__all__ = ["s3", "s3_server"]
STEPS, SAVED = 6, 3
OPTIONS = [
    "--config.optim.schedule=constant", "--config.microbatch_size=2", "--config.model.embed_dim=64",
    "--config.checkpoint.keep_latest=9", f"--config.total_steps={STEPS}",
]  # fmt: skip


def train_two(config_file, cache, workdir, *options, faults=(), machines=({}, {})):
    """Trains as two processes of two devices; returns exit codes and stderr of both.

    `faults` are those of process 1, `machines` the environments of both.
    """
    address = free_address()
    processes = []
    for index in range(2):
        env = environment(cache, **machines[index])
        command = [
            "train", f"--config={config_file}", f"--workdir={workdir}", *OPTIONS, *options, "--cpu_devices=2",
            f"--coordinator={address}", "--num_processes=2", f"--process_index={index}",
        ]  # fmt: skip
        faulty = faults and index == 1
        processes.append(start_with(faults, *command, env=env) if faulty else start(*command, env=env))
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def saved_leaves(workdir, step):
    """Every array of a checkpoint by path, and none that is not in its manifest."""
    checkpoint = workdir / "checkpoints" / str(step)
    manifest = read_manifest(checkpoint)
    return {
        name: array
        for name, array, _ in read_leaves(checkpoint, manifest, {leaf["path"]: None for leaf in manifest.leaves})
    }


def assert_same_leaves(workdir, expected):
    found, wanted = saved_leaves(workdir, STEPS), saved_leaves(expected, STEPS)
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        assert array.tobytes() == wanted[name].tobytes(), name


def copy_at_save(run, workdir):
    """A copy of a run whose newest checkpoint is that of step `SAVED`."""
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    return workdir


@pytest.fixture(scope="module")
def unbroken(config_file, compilation_cache, tmp_path_factory):
    """The whole run of two processes."""
    workdir = tmp_path_factory.mktemp("zero3")
    codes, said = train_two(config_file, compilation_cache, workdir, "--config.parallel.sync=zero3")
    assert codes == [0, 0], said
    return workdir


@pytest.fixture
def machines(s3, tmp_path):
    """Environments of two machines that share a bucket and no directory."""
    return [{"XDG_CACHE_HOME": str(tmp_path / f"machine_{index}")} for index in range(2)]


def downloaded(url, directory):
    """All objects below a URL as files."""
    store = open_store(remote_location(url, "--workdir"), "--workdir")
    for info in store.list():
        path = directory / info.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(info.key)[0])
    return directory


@pytest.mark.slow
def test_machines_without_a_shared_directory_continue_bitwise(
    config_file, compilation_cache, unbroken, machines, tmp_path
):
    """Process 1 is killed before it puts its shards of the last checkpoint; then both go on from the one before."""
    url, zero3 = "s3://bucket/sharded", "--config.parallel.sync=zero3"
    # Its log, its shards and their record come before.
    codes, said = train_two(config_file, compilation_cache, url, zero3, faults=["die_at_request=4"], machines=machines)
    assert codes == [70, -signal.SIGKILL] and re.search(r"process 1 on \S+ is gone", said[0]), said
    assert committed_steps(downloaded(url, tmp_path / "killed") / "checkpoints") == [SAVED]
    codes, said = train_two(config_file, compilation_cache, url, zero3, machines=machines)
    assert codes == [0, 0] and all(f"resuming from checkpoint {SAVED} of" in text for text in said), said
    assert all(f"finished {STEPS} steps; everything is in {url}" in text for text in said)
    ended = downloaded(url, tmp_path / "ended")
    assert main(["inspect", str(ended), "--verify"]) == 0
    assert_same_leaves(ended, unbroken)
    losses = [[line["train/loss"] for line in metrics_lines(run)] for run in (ended, unbroken)]
    assert losses[0] == losses[1]
    assert all(f"finished {STEPS} steps" in (ended / "logs" / f"process_{index}.log").read_text() for index in (0, 1))
    assert not (ended / ".run_token").exists() and not list(ended.glob("checkpoints/*/shards_*.json"))


def test_each_process_saves_its_range_of_every_sharded_leaf(unbroken):
    checkpoint = unbroken / "checkpoints" / str(STEPS)
    manifest = read_manifest(checkpoint)
    shapes = {leaf["path"]: leaf["shape"] for leaf in manifest.leaves}
    assert {"params/token_embedding", "ema/layer_0/mlp/up/kernel"} <= manifest.pieces.keys(), manifest.pieces.keys()
    for name, entry in manifest.pieces.items():
        size = shapes[name][entry["axis"]]
        assert entry["ranges"] == {"shards_0": [0, size // 2], "shards_1": [size // 2, size]}
    assert {"shards_0.safetensors", "shards_1.safetensors"} <= manifest.files.keys()
    assert sorted(path.name for path in unbroken.glob("checkpoints/*")) == [str(SAVED), str(STEPS)]
    assert main(["inspect", str(unbroken), "--verify"]) == 0


@pytest.mark.slow  # one process: tests/training/test_sharded_resume.py
def test_the_same_processes_continue_bitwise(config_file, compilation_cache, unbroken, tmp_path):
    workdir = copy_at_save(unbroken, tmp_path / "run")
    codes, said = train_two(config_file, compilation_cache, workdir, "--config.parallel.sync=zero3")
    assert codes == [0, 0] and all(f"resuming from checkpoint {SAVED} of" in text for text in said), said
    assert_same_leaves(workdir, unbroken)
    losses = [[line["train/loss"] for line in metrics_lines(run)] for run in (workdir, unbroken)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("sync", "num_devices"),
    other_rows_slow([("zero3", 4), ("zero3", 2), ("pmean", 1)], ("zero3", 4)),
)
def test_one_process_continues_on_any_number_of_devices(
    config_file, unbroken, tmp_path, monkeypatch, sync, num_devices
):
    devices = Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)
    monkeypatch.setattr(setup, "configure_backend", lambda *_, **__: None)
    monkeypatch.setattr(setup, "init_devices", lambda: devices)
    workdir = copy_at_save(unbroken, tmp_path / "run")
    options = [*OPTIONS, f"--cpu_devices={num_devices}", f"--config.parallel.sync={sync}"]
    assert train(config_file, workdir, *options) == 0
    lines, expected = metrics_lines(workdir), metrics_lines(unbroken)
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in expected]
    np.testing.assert_allclose(
        [line["train/loss"] for line in lines], [line["train/loss"] for line in expected], rtol=1e-4
    )
    assert read_manifest(workdir / "checkpoints" / str(STEPS)).pieces is None


def test_other_commands_read_the_pieces(unbroken, config_file, tmp_path, capsys):
    loaded = jaxdp.load_checkpoint(unbroken, weights="raw").params
    leaves = saved_leaves(unbroken, STEPS)
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded):
        np.testing.assert_array_equal(leaf, leaves["params/" + "/".join(key.key for key in path)])
    assert main(["generate", f"--workdir={unbroken}", "--prompt=the", "--max_new_tokens=2"]) == 0
    options = [*OPTIONS[:-1], "--config.total_steps=1", f"--config.init_from={unbroken}"]
    assert train(config_file, tmp_path / "next", *options) == 0
    assert "starting from" in capsys.readouterr().err


@pytest.mark.parametrize("process", others_slow([0, 1], 1))
def test_a_flipped_bit_in_the_shards_of_any_process_is_found(config_file, unbroken, tmp_path, capsys, process):
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    path = workdir / "checkpoints" / str(STEPS) / f"shards_{process}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    assert main(["inspect", str(workdir), "--verify"]) == 4
    assert str(path) in capsys.readouterr().err
    assert train(config_file, workdir, *OPTIONS, "--config.parallel.sync=zero3", "--cpu_devices=8") == 0
    err = capsys.readouterr().err
    assert f"checkpoint {STEPS} is damaged and set aside as {workdir}/checkpoints/{STEPS}.damaged" in err
    assert str(path) in err and f"resuming from checkpoint {SAVED} of {STEPS} steps" in err
    assert committed_steps(workdir / "checkpoints") == [SAVED, STEPS]


def test_a_process_killed_while_it_writes_leaves_no_checkpoint_and_is_named(config_file, compilation_cache, tmp_path):
    codes, said = train_two(
        config_file, compilation_cache, tmp_path, "--config.parallel.sync=zero3",
        faults=[f"die_writing_shards={STEPS}"],
    )  # fmt: skip
    assert codes == [70, -signal.SIGKILL], said
    assert re.search(r"jaxdp: process 1 on \S+ is gone", said[0]) and "Traceback" not in said[0], said[0]
    checkpoints = tmp_path / "checkpoints"
    assert committed_steps(checkpoints) == [SAVED] and find_damage(checkpoints / str(SAVED)) == []
    left = {path.name for path in checkpoints.iterdir()} - {str(SAVED)}
    assert left and all(re.match(rf"{STEPS}\.saving-", name) for name in left)
