"""Safetensors files against the reference implementation, and partial reads."""

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdp.safetensors_file import map_arrays, read_array, read_header, write_file

ARRAYS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(4, 6),
    "b": np.array([True, False]),
    "count": np.array(7, np.int32),
    "empty": np.zeros((0, 3), np.float32),
    "big": np.arange(1000, dtype=np.int64).reshape(10, 10, 10),
}


def test_the_reference_reads_what_is_written(tmp_path):
    write_file(tmp_path / "x.safetensors", ARRAYS)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_the_reference_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (header[name].dtype, header[name].shape) == (str(array.dtype), array.shape)
        np.testing.assert_array_equal(read_array(path, header[name]), array)


def test_rows_are_read_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    write_file(path, ARRAYS)
    found = read_array(path, read_header(path)["big"], slice(3, 5))
    np.testing.assert_array_equal(found, ARRAYS["big"][3:5])


def test_bfloat16_returns_bitwise(tmp_path):
    path, array = tmp_path / "x.safetensors", np.array([1.0, -0.007, np.inf], ml_dtypes.bfloat16)
    write_file(path, {"x": array})
    found = read_array(path, read_header(path)["x"])
    assert found.dtype == array.dtype and found.tobytes() == array.tobytes()


def test_a_short_file_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    write_file(path, ARRAYS)
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match="ends before an array does"):
        read_array(path, header["big"])


def test_mapped_arrays_are_used_in_place(tmp_path):
    """XLA:CPU takes an array of another process's file without a copy if it is aligned to 64 bytes."""
    arrays = {"a": np.arange(32, dtype=np.float32), "none": np.empty((0, 3)), "w": np.ones((16, 5), np.float16)}
    arrays["odd"] = np.arange(3, dtype=np.int16)
    for name in ("x", "a longer name of an array"):  # headers of different lengths
        write_file(tmp_path / "x.safetensors", {name: arrays["a"]} | arrays)
        found = dict(map_arrays(tmp_path / "x.safetensors"))
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype and np.array_equal(found[key], array)
        placed = jax.device_put(found["a"], jax.devices("cpu")[0])
        assert placed.unsafe_buffer_pointer() == found["a"].ctypes.data
