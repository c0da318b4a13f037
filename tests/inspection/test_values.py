"""Statistics, differences and fingerprints of values, against NumPy and against a definition written out here."""

import hashlib
import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tiny_runs
from written_runs import parameters, scanned, write_run

import jaxdp
from jaxdp.cli.main import main
from jaxdp.inspection.differences import compare
from jaxdp.inspection.fingerprint import fingerprint
from jaxdp.inspection.statistics import Statistics
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.exporting import export_model
from jaxdp.interop.importing import import_model
from jaxdp.interop.source import ParameterSource
from jaxdp.interop.views import Unscanned
from jaxdp.safetensors_file import read_header, read_pieces, write_file
from jaxdp.trees import named_leaves

compilation_cache, config_file, trained = tiny_runs.compilation_cache, tiny_runs.config_file, tiny_runs.trained


def expected_fingerprint(arrays):
    lines = [
        f"{json.dumps(name)} {array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}\n"
        for name, array in sorted(arrays.items())
        if not name.endswith("bias") or array.any()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_run_its_export_and_the_import_of_it_have_one_fingerprint(trained, tmp_path, capsys):
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(jaxdp.load_checkpoint(trained).params)}
    expected = expected_fingerprint(arrays)
    exported = export_model(trained, tmp_path / "out")
    write_file(tmp_path / "x.safetensors", arrays)
    imported = import_model(exported, tmp_path / "again")
    for path in (trained, exported, imported, tmp_path / "x.safetensors"):
        assert fingerprint(str(path))["fingerprint"] == expected, path
    assert main(["inspect", str(exported), "--fingerprint", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["fingerprint"] == expected and found["names"] == "names of jaxdp" and found["params"]
    one = dict(arrays, position_embedding=arrays["position_embedding"] + np.float32(1e-7))
    write_file(tmp_path / "y.safetensors", one)
    assert fingerprint(str(tmp_path / "y.safetensors"))["fingerprint"] == expected_fingerprint(one) != expected


def test_scanned_layers_have_the_fingerprint_of_unrolled_ones(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    write_file(tmp_path / "scanned.safetensors", {"layers/w": values, "a": values[0]})
    write_file(tmp_path / "unrolled.safetensors", {"layer_1/w": values[1], "layer_0/w": values[0], "a": values[0]})
    prints = {fingerprint(str(tmp_path / f"{name}.safetensors"))["fingerprint"] for name in ("scanned", "unrolled")}
    assert len(prints) == 1
    found = compare(str(tmp_path / "scanned.safetensors"), str(tmp_path / "unrolled.safetensors"))
    assert found["equal"] == 3 and not found["changes"] and not found["only_first"] and not found["only_second"]


def test_parts_of_a_scanned_array_cross_its_pieces():
    class Pieces(ParameterSource):
        path = None

        def __init__(self, array, size):
            self.array, self.size = array, size
            self.arrays = {"layers/w": jaxdp.interop.source.ArraySpec(str(array.dtype), array.shape)}

        arrays = None
        read = identity = describe = None

        def pieces(self, name):
            flat = self.array.reshape(-1)
            yield from (flat[start : start + self.size] for start in range(0, flat.size, self.size))

    array = np.arange(60, dtype=np.int32).reshape(5, 3, 4)
    for size in (1, 5, 12, 24, 60):
        found = {name: np.concatenate(list(parts)) for name, parts in Unscanned(Pieces(array, size)).streams()}
        assert [values.tolist() for values in found.values()] == array.reshape(5, -1).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "bool"])
def test_statistics_are_those_of_numpy(dtype):
    values = (1000 + 10 * np.random.default_rng(0).standard_normal((3, 700))).astype(dtype)
    values[0, :50] = 0
    statistics = Statistics()
    for part in np.array_split(values.reshape(-1), 7):
        statistics.add(part)
    exact = values.astype(np.float64)
    expected = (exact.mean(), exact.std(), exact.min(), exact.max(), np.linalg.norm(exact), (exact == 0).sum())
    found = (statistics.mean, statistics.std, statistics.min, statistics.max, statistics.norm, statistics.zeros)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (statistics.size, statistics.nan, statistics.inf) == (2100, 0, 0)


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    write_file(path, {"bad": np.float32([np.nan, np.inf, -np.inf, 0, 3]), "none": np.zeros((0, 2), np.float32)})
    assert main(["inspect", str(path), "--stats", "--json"]) == 0
    bad, none = json.loads(capsys.readouterr().out)["params"]
    assert bad == {
        "path": "bad", "size": 5, "nan": 1, "inf": 2, "zeros": 1, "min": 0, "max": 3, "mean": 1.5, "std": 1.5, "norm": 3,
    }  # fmt: skip
    assert none["mean"] is None and none["size"] == 0
    assert main(["inspect", str(path), "--stats"]) == 0
    assert capsys.readouterr().out.endswith("1 of 2 arrays have values that are not finite\n")


def test_differences_are_listed_with_the_largest_first(tmp_path, capsys):
    old = {"a": np.float32([3, 4]), "b": np.float32([1, 1]), "c": np.ones(2, np.int32), "nan": np.float32([np.nan, 1])}
    new = {
        "a": np.float32([3, 4.5]),
        "b": np.float32([2, 1]).astype(ml_dtypes.bfloat16),
        "c": np.ones(3, np.int32),
        "d": np.ones(1),
        "nan": np.float32([np.nan, 1]),
    }
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("old", "new")]
    for path, arrays in zip(paths, (old, new), strict=True):
        write_file(path, arrays)
    found = compare(*paths)
    assert [change["path"] for change in found["changes"]] == ["b", "a"] and found["equal"] == 1
    np.testing.assert_allclose([change["relative"] for change in found["changes"]], [1 / np.sqrt(2), 0.1])
    assert found["only_second"] == ["d"] and found["shapes"] == [["c", "int32[2]", "int32[3]"]]
    for arguments in ([paths[0], f"--diff={paths[1]}"], ["--diff", *paths]):
        assert main(["inspect", *arguments]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"first     {paths[0]}") and "  b          0.707          1  float32 -> bfloat16\n" in out


def test_difference_between_checkpoints_of_a_run_names_the_configuration(trained, tmp_path):
    found = compare(str(trained / "checkpoints" / "3"), str(trained / "checkpoints" / "6"))
    old, new = (jaxdp.load_checkpoint(trained, step=step).params for step in ("3", "6"))
    norms = {
        name: np.linalg.norm(np.asarray(after) - np.asarray(before)) / np.linalg.norm(before)
        for (name, before), (_, after) in zip(named_leaves(old), named_leaves(new), strict=True)
    }
    assert found["config"] == [] and found["changes"]
    for change in found["changes"]:
        np.testing.assert_allclose(change["relative"], norms[change["path"]], rtol=1e-5)


def test_damaged_shards_are_told(tmp_path, capsys):
    arrays = parameters()
    run = write_run(tmp_path / "a", checkpoints={5: arrays})
    assert main(["inspect", str(run), "--stats"]) == 0
    path = run / "checkpoints" / "5" / "parameters.safetensors"
    path.write_bytes(b"{}")
    assert main(["inspect", str(run), "--stats"]) == 4
    assert f"jaxdp: {path} is not what was written: its header is longer" in capsys.readouterr().err


def test_layers_of_a_scanned_array_may_be_left_out(tmp_path):
    arrays = parameters()
    write_run(tmp_path / "a", checkpoints={5: scanned(arrays)})
    source = Unscanned(CheckpointSource(tmp_path / "a"))
    for chosen in ("layer_0", "layer_2"):
        found = {name: np.concatenate(list(pieces)) for name, pieces in source.streams() if name.startswith(chosen)}
        assert len(found) == 3
        for name, values in found.items():
            np.testing.assert_array_equal(values, arrays[name].reshape(-1))


def test_two_results_at_once_are_refused(trained, capsys):
    assert main(["inspect", str(trained), "--stats", "--verify"]) == 2
    assert "--stats and --verify are two results" in capsys.readouterr().err


def test_pieces_of_a_safetensors_array(tmp_path):
    array = np.arange(1000, dtype=np.int16).reshape(10, 100)
    write_file(tmp_path / "x.safetensors", {"first": np.zeros(3), "w": array})
    pieces = list(
        read_pieces(tmp_path / "x.safetensors", read_header(tmp_path / "x.safetensors")["w"], piece_bytes=150)
    )
    assert max(piece.nbytes for piece in pieces) == 150
    assert np.array_equal(np.concatenate(pieces), array.reshape(-1))


def test_statistics_of_safetensors_need_no_jax(tmp_path):
    write_file(tmp_path / "x.safetensors", {"w": np.ones(3)})
    code = (
        "import sys; from jaxdp.cli.main import main\n"
        f"code = main(['inspect', {str(tmp_path / 'x.safetensors')!r}, '--stats'])\n"
        "sys.exit(code or bool({'jax', 'flax', 'orbax', 'tensorstore'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, stdout=subprocess.DEVNULL)
