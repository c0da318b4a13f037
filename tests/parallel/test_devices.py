"""Devices, and how a global batch falls on them."""

import os
from types import SimpleNamespace

import jax
import pytest
from tiny_training import topology

from jaxdp.errors import UserError
from jaxdp.parallel import devices
from jaxdp.parallel.devices import (
    AXIS,
    BatchShape,
    Topology,
    backend_has_started,
    check_device_count,
    check_same_devices,
    configure_backend,
    divide_batch,
    divisors_up_to,
    fitting_cpu_devices,
    fitting_topology,
    init_devices,
)


def test_the_topology_holds_all_devices_in_order_of_process_and_id():
    found = init_devices()
    assert list(found.devices) == sorted(jax.devices(), key=lambda device: device.id)
    assert (found.num_devices, found.num_local_devices) == (8, 8)
    assert (found.num_processes, found.process_index) == (1, 0)
    assert (found.platform, found.kind) == ("cpu", "cpu")
    assert found.mesh.axis_names == (AXIS,)


class FakeDevice:
    def __init__(self, process_index, number):
        self.process_index, self.id = process_index, number


def test_devices_of_a_process_stand_together(monkeypatch):
    """TPU ids do not follow processes; examples are assigned in this order."""
    scattered = [FakeDevice(1, 2), FakeDevice(0, 5), FakeDevice(1, 0), FakeDevice(0, 1)]
    monkeypatch.setattr(jax, "devices", lambda: scattered)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    found = init_devices()
    assert [(device.process_index, device.id) for device in found.devices] == [(0, 1), (0, 5), (1, 0), (1, 2)]
    assert (found.num_devices, found.num_local_devices, found.process_index) == (4, 2, 1)


def test_a_missing_platform_is_one_sentence(monkeypatch):
    def unable():
        raise RuntimeError("Unable to initialize\nbackend 'tpu'")

    monkeypatch.setattr(jax, "devices", unable)
    with pytest.raises(UserError, match=r"Unable to initialize backend 'tpu'. Unset JAX_PLATFORMS"):
        init_devices()


@pytest.mark.parametrize(
    ("number", "limit", "expected"), [(12, 8, [1, 2, 3, 4, 6]), (7, 6, [1]), (7, 7, [1, 7]), (2, 8, [1, 2])]
)
def test_divisors(number, limit, expected):
    assert divisors_up_to(number, limit) == expected


@pytest.mark.parametrize(("rows", "cores", "expected"), [(32, 8, 8), (12, 8, 6), (7, 2, 1), (1, 64, 1), (0, 4, 1)])
def test_the_largest_count_of_cpu_devices_that_divides_the_rows(rows, cores, expected, monkeypatch):
    monkeypatch.setattr(devices, "num_cores", lambda: cores)
    assert fitting_cpu_devices(rows) == expected


@pytest.mark.parametrize(
    ("rows", "microbatch", "count", "expected"),
    [
        (32, None, 4, BatchShape(32, 4, 8, 1)),
        (32, 2, 4, BatchShape(32, 4, 2, 4)),
        (32, 8, 4, BatchShape(32, 4, 8, 1)),
        (8, 1, 8, BatchShape(8, 8, 1, 1)),
    ],
)
def test_a_batch_comes_out_even(rows, microbatch, count, expected):
    shape = divide_batch(rows, microbatch, count)
    assert shape == expected
    assert shape.num_devices * shape.microbatch_size * shape.num_microbatches == rows
    assert shape.device_batch_size == rows // count


@pytest.mark.parametrize(
    ("rows", "microbatch", "count", "message"),
    [
        (
            12, None, 8,
            "global_batch_size=12 does not divide over 8 devices: use 1, 2, 3, 4 or 6 devices "
            "(on CPU --cpu_devices=N), or a global_batch_size of 8 or 16.",
        ),
        (
            3, None, 4,
            "global_batch_size=3 does not divide over 4 devices: use 1 or 3 devices "
            "(on CPU --cpu_devices=N), or a global_batch_size of 4.",
        ),
        (
            32, 3, 4,
            "microbatch_size=3 does not divide the 8 examples that each of 4 devices holds; "
            "use 1, 2, 4 or 8.",
        ),
        (4, 0, 4, "microbatch_size=0 does not divide the 1 examples that each of 4 devices holds; use 1."),
        (8, 16, 4, "microbatch_size=16 does not divide the 2 examples that each of 4 devices holds; use 1 or 2."),
        (0, None, 4, "global_batch_size=0 must be at least 1."),
        (-8, None, 4, "global_batch_size=-8 must be at least 1."),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_divide_evenly_is_refused_with_sizes_that_do(
    rows, microbatch, count, message, monkeypatch
):
    monkeypatch.setattr(devices, "num_cores", lambda: 2)
    with pytest.raises(UserError) as error:
        divide_batch(rows, microbatch, count)
    assert str(error.value) == message


def test_the_devices_that_were_asked_for_must_be_there():
    check_device_count(None, topology(4))
    check_device_count(4, topology(4))
    with pytest.raises(UserError, match=r"cpu_devices=2 .* JAX made 4"):
        check_device_count(2, topology(4))


def test_processes_share_the_devices():
    assert Topology(tuple(jax.devices()), num_processes=2, process_index=1).num_local_devices == 4


@pytest.fixture
def updates(monkeypatch):
    """Records changes of JAX's configuration instead of making them."""
    made = {}
    monkeypatch.setattr(jax.config, "update", made.__setitem__)
    monkeypatch.setattr(devices, "backend_has_started", lambda: False)
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever the code makes of it
        monkeypatch.delenv(name)
    return made


def test_a_backend_that_has_started_is_used_as_it_is():
    assert backend_has_started()
    before = jax.config.jax_num_cpu_devices
    configure_backend(None, 3)
    configure_backend(8, 3)
    assert jax.config.jax_num_cpu_devices == before
    with pytest.raises(UserError, match=r"cpu_devices=2 .* has already started in this process with 8 x cpu"):
        configure_backend(2, 3)


def test_flags_that_xla_no_longer_reads_are_refused(monkeypatch):
    monkeypatch.setattr(devices.jax, "local_devices", lambda: [SimpleNamespace(platform="gpu")])
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(UserError, match=r"set XLA_FLAGS=--xla_gpu_deterministic_ops=true before"):
        configure_backend(None, 1, deterministic=True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    configure_backend(None, 1, deterministic=True)


def test_programs_cannot_be_compiled_without_jit():
    with jax.disable_jit(), pytest.raises(UserError, match="JAX_DISABLE_JIT"):
        configure_backend(None, 1)


@pytest.mark.parametrize(("rows", "expected"), [(16, 8), (12, 6), (7, 7), (11, 1)])
def test_of_devices_that_were_started_before_as_many_as_divide_the_rows_are_used(rows, expected, monkeypatch):
    everything = topology(8)
    assert fitting_topology(everything, rows).devices == everything.devices[:expected]
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    assert fitting_topology(everything, rows) == everything


def test_an_explicit_count_of_cpu_devices_leaves_accelerators_alone(updates):
    configure_backend(3, 8)
    assert (updates["jax_platforms"], updates["jax_num_cpu_devices"]) == ("cpu", 3)


def test_otherwise_the_platform_is_jaxs_choice(updates):
    configure_backend(None, 8)
    assert "jax_platforms" not in updates
    assert updates["jax_num_cpu_devices"] == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_NUM_CPU_DEVICES", "5"), ("XLA_FLAGS", "--xla_force_host_platform_device_count=5")],
)
def test_a_count_in_the_environment_beats_the_default_and_not_the_request(name, value, updates, monkeypatch):
    monkeypatch.setenv(name, value)
    configure_backend(None, 8)
    assert "jax_num_cpu_devices" not in updates
    configure_backend(2, 8)
    assert updates["jax_num_cpu_devices"] == 2


@pytest.mark.parametrize("count", [0, -1])
def test_no_devices_is_not_a_request(count, updates):
    with pytest.raises(UserError, match=f"parallel.cpu_devices={count}"):
        configure_backend(count, 8)


def test_deterministic_kernels_are_asked_of_xla_once(updates, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    for _ in range(2):
        configure_backend(1, 1, deterministic=True)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"


def test_compiled_programs_are_kept_where_the_user_says(updates, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None, raising=False)
    configure_backend(1, 1)
    assert updates["jax_compilation_cache_dir"] == str(tmp_path / "jaxdp" / "xla")
    updates.clear()
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", "elsewhere", raising=False)
    configure_backend(1, 1)
    assert "jax_compilation_cache_dir" not in updates


def device(process_index, kind="cpu"):
    return SimpleNamespace(process_index=process_index, device_kind=kind)


def test_processes_must_bring_the_same_devices():
    check_same_devices(Topology((device(0), device(0), device(1), device(1)), 2, 0))
    with pytest.raises(UserError, match=r"process 0 has 2 x cpu, process 1 has 1 x cpu; all must have the same"):
        check_same_devices(Topology((device(0), device(0), device(1)), 2, 0))
    with pytest.raises(UserError, match=r"process 0 has 1 x H100, process 1 has 1 x A100"):
        check_same_devices(Topology((device(0, "H100"), device(1, "A100")), 2, 1))
    with pytest.raises(UserError, match=r"process 0 has 1 x H100, process 1 has no device"):
        check_same_devices(Topology((device(0, "H100"),), 2, 0))
