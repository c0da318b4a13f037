"""Parameter sources: one view of runs, safetensors files, Hugging Face folders and Orbax directories."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxdp
from jaxdp.errors import DamageFound, UserError
from jaxdp.interop.open_source import open_source
from jaxdp.safetensors_file import write_file
from jaxdp.trees import named_leaves


@pytest.fixture(scope="module")
def arrays(trained):
    return dict(named_leaves(jaxdp.load_checkpoint(trained).params))


def write_folder(folder, arrays, num_shards=1):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    names = sorted(arrays)
    if num_shards == 1:
        write_file(folder / "model.safetensors", arrays)
        return folder
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        own = names[shard::num_shards]
        write_file(folder / file, {name: arrays[name] for name in own})
        weight_map |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_every_kind_has_the_same_arrays_and_fingerprint(trained, arrays, tmp_path):
    write_file(tmp_path / "x.safetensors", arrays)
    tree = jaxdp.load_checkpoint(trained).params
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(tmp_path / "foreign", {"params": tree, "step": np.int32(3)})
    kinds = {
        "run": trained,
        "checkpoint": trained / "checkpoints" / "6",
        "file": tmp_path / "x.safetensors",
        "folder": write_folder(tmp_path / "single", arrays),
        "shards": f"hf:{write_folder(tmp_path / 'sharded', arrays, 3)}",
        "orbax": tmp_path / "foreign",
    }
    for kind, path in kinds.items():
        source = open_source(path)
        assert source.arrays.keys() == arrays.keys(), kind
        assert source.fingerprint() == open_source(trained).fingerprint(), kind
        for name, array in arrays.items():
            assert source.arrays[name] == (str(array.dtype), array.shape)
            np.testing.assert_array_equal(source.read(name), array)
    changed = arrays | {"position_embedding": arrays["position_embedding"] + np.float32(1e-7)}
    other = open_source(write_folder(tmp_path / "changed", changed))
    assert other.fingerprint() != open_source(trained).fingerprint()
    assert other.identity() != open_source(kinds["folder"]).identity()
    assert open_source(trained).tokenizer == trained / "tokenizer.json" and other.tokenizer is None


def test_what_cannot_be_opened_says_why(trained, arrays, tmp_path):
    sharded = write_folder(tmp_path / "sharded", arrays, 3)
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(DamageFound, match=r"lacks 1 of its 3 shards: model-00002-of-00003\.safetensors"):
        open_source(sharded)
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(DamageFound, match="lacks 1 of its 3 shards"):
        open_source(sharded)
    single = write_folder(tmp_path / "single", arrays)
    whole = (single / "model.safetensors").read_bytes()
    for content, why in (
        (whole[:40], "its header is longer than the file"),
        (whole[:-9], "it ends before its arrays do"),
    ):
        (single / "model.safetensors").write_bytes(content)
        with pytest.raises(DamageFound, match=why):
            _ = open_source(single).arrays
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, which is not read.*save_pretrained"):
        open_source(single)
    workdir = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("6", "3"))
    (workdir / "checkpoints" / "3.saving-0a").mkdir()
    for path in (workdir, workdir / "checkpoints" / "3.saving-0a", tmp_path / "step.orbax-checkpoint-tmp-1"):
        with pytest.raises(UserError, match="still being written"):
            open_source(path)
    with pytest.raises(UserError, match="is none of these: a work directory"):
        open_source(tmp_path)
