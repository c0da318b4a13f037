"""Inspection of other formats: Orbax of every storage, Hugging Face folders, folders of runs, and paths that hold none."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_runs
from orbax.checkpoint import v1

from jaxdp.checkpoint.array_store import PIECE_BYTES, ArrayStore, blocks
from jaxdp.cli.main import main
from jaxdp.inspection.describe import describe
from jaxdp.inspection.layers import collapse
from jaxdp.interop.open_source import open_source
from jaxdp.safetensors_file import write_file

compilation_cache, config_file, trained = tiny_runs.compilation_cache, tiny_runs.config_file, tiny_runs.trained

TREE = {
    "params": {"layer_0": {"w": jnp.arange(12.0).reshape(3, 4)}, "b": jnp.ones(4, jnp.bfloat16)},
    "opt_state": [{"mu": {"b": jnp.zeros(4)}}, {}],
    "step": 7,
}


def write_v0(path, **storage):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**storage)) as writer:
        writer.save(path, args=ocp.args.PyTreeSave(TREE))
    return path


def write_v1(path):
    v1.save(path, TREE)
    return path


def write_manager(path):
    with ocp.CheckpointManager(path) as manager:
        for step in (5, 10):
            manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(TREE), notes=ocp.args.JsonSave({})))
    return path


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: write_v0(path, use_ocdbt=True, use_zarr3=False), id="v0 ocdbt"),
        pytest.param(lambda path: write_v0(path, use_ocdbt=True, use_zarr3=True), id="v0 ocdbt zarr3"),
        pytest.param(lambda path: write_v0(path, use_ocdbt=False, use_zarr3=False), id="v0 zarr2"),
        pytest.param(lambda path: write_v0(path, use_ocdbt=False, use_zarr3=True), id="v0 zarr3"),
        pytest.param(write_v1, id="v1"),
        pytest.param(write_manager, id="manager"),
    ],
)
def test_orbax_of_every_storage(write, tmp_path, capsys):
    path = write(tmp_path / "saved")
    found = describe(str(path))
    assert found["kind"] == "Orbax directory" and found["opt_state"] == [
        {"path": "opt_state/0/mu/b", "shape": [4], "dtype": "float32", "bytes": 16}
    ]
    assert [(each["path"], each["shape"], each["dtype"]) for each in found["params"]] == [
        ("params/b", [4], "bfloat16"),
        ("params/layer_0/w", [3, 4], "float32"),
        ("step", [], "int64"),
    ]
    source = open_source(path / "10" if (path / "10").is_dir() else path)
    assert source.arrays.keys() == {"b", "layer_0/w"}
    np.testing.assert_array_equal(source.read("layer_0/w"), TREE["params"]["layer_0"]["w"])
    np.testing.assert_array_equal(source.read("b"), np.ones(4, ml_dtypes.bfloat16))
    assert main(["inspect", str(path)]) == 0
    assert "params/layer_0/w  [3, 4]  float32" in capsys.readouterr().out


def test_steps_of_an_orbax_manager(tmp_path, capsys):
    path = write_manager(tmp_path / "saved")
    assert describe(str(path))["path"] == str(path / "10") and describe(str(path), "5")["path"] == str(path / "5")
    assert main(["inspect", str(path), "--step=7"]) == 2
    assert "has no such checkpoint; it has 5, 10 and `latest`" in capsys.readouterr().err


def test_hugging_face_folder(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    arrays = {f"encoder.layer.{layer}.attention.weight": np.ones((2, 3), np.float32) for layer in range(12)}
    for shard in (1, 2):
        own = dict(list(arrays.items())[shard - 1 :: 2])
        write_file(tmp_path / f"model-0000{shard}-of-00002.safetensors", own)
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(arrays)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "kind      Hugging Face folder" in out and "  model_type = bert" in out
    assert "  encoder.layer.{0..11}.attention.weight  [2, 3]  float32  x 12  72  288 B\n" in out
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 20)
    for options, code, said in (([], 2, "is not a whole safetensors file"), (["--verify"], 4, "is not a whole")):
        assert main(["inspect", str(tmp_path), *options]) == code
        assert said in capsys.readouterr().err
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    for options, code in (([], 2), (["--verify"], 4)):
        assert main(["inspect", str(tmp_path), *options]) == code
        assert "lacks 1 of its 2 shards" in capsys.readouterr().err


def test_folder_of_runs(trained, tmp_path, capsys):
    for name in ("small", "group/large"):
        shutil.copytree(trained, tmp_path / name)
    (tmp_path / "broken" / "checkpoints").mkdir(parents=True)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    runs = {run["path"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert runs.keys() == {"small", "group/large", "broken"}
    assert runs["broken"]["step"] is None and "config.json" in runs["broken"]["problem"]
    manifest = json.loads((trained / "checkpoints" / "6" / "manifest.json").read_text())
    assert (runs["small"]["step"], runs["small"]["total_steps"], runs["small"]["time"]) == (6, 6, manifest["time"])
    assert runs["small"]["value"] == manifest["metrics"]["eval/loss"]
    assert runs["small"]["bytes"] == sum(path.stat().st_size for path in trained.rglob("*") if path.is_file())
    assert main(["inspect", str(tmp_path)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "task", "step", "age", "metric", "size"]
    assert any(line.split()[:3] == ["group/large", "causal_lm", "6/6"] for line in lines)


@pytest.mark.parametrize("name", ["7.saving-0a", "step.orbax-checkpoint-tmp-1"])
def test_a_checkpoint_that_is_still_being_written(tmp_path, name, capsys):
    (tmp_path / name).mkdir()
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert "still being written" in capsys.readouterr().err


def rows(*paths):
    return [
        (row.path, row.count) for row in collapse({"path": p, "shape": [2], "dtype": "int8", "bytes": 2} for p in paths)
    ]


def test_collapse_by_layer():
    assert rows("a", "layer_0/w", "layer_1/w", "layer_2/w", "b") == [("a", 1), ("layer_{0..2}/w", 3), ("b", 1)]
    assert rows("h.0.w", "h.2.w", "h.10.w", "h.11.w", "h.12.w") == [("h.{0,2,10..12}.w", 5)]
    experts = [f"h.{layer}.e.{expert}" for layer in range(2) for expert in range(3)]
    assert rows(*experts) == [("h.{0,1}.e.{0..2}", 6)]
    assert rows(*experts[:-1]) == [("h.0.e.{0..2}", 3), ("h.1.e.{0,1}", 2)]
    assert rows("conv1", "conv2", "0/mu", "{}") == [("conv1", 1), ("conv2", 1), ("0/mu", 1), ("{}", 1)]


@pytest.mark.parametrize(
    ("shape", "step"),
    [((), ()), ((5,), (2,)), ((7, 2**20), (2, 2**18)), ((3, 5, 2**21), (1, 1, 2**19)), ((0, 4), (1, 1))],
)
def test_blocks_follow_each_other_in_c_order(shape, step):
    places = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
    found = [places[block].reshape(-1) for block in blocks(shape, step, 4)]
    assert np.array_equal(np.concatenate([np.empty(0, np.int32), *found]), places.reshape(-1))
    assert max((part.nbytes for part in found), default=0) <= PIECE_BYTES


def test_pieces_of_a_large_array_are_small(tmp_path):
    values = jnp.arange(3 * 2**21, dtype=jnp.float32).reshape(12, -1)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        args = ocp.args.PyTreeSave({"w": values}, save_args={"w": ocp.SaveArgs(chunk_byte_size=2**21)})
        writer.save(tmp_path / "saved", args=args)
    pieces = list(ArrayStore(tmp_path / "saved").pieces("w"))
    assert max(piece.nbytes for piece in pieces) <= PIECE_BYTES and len(pieces) > 1
    assert np.array_equal(np.concatenate(pieces), np.asarray(values).reshape(-1))
