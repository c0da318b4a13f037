"""Resource sampler: values of fake and real readers, and a driver that fails midway."""

import os
import resource
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

from jaxdp.errors import UserError
from jaxdp.hardware.cores import num_cores
from jaxdp.hardware.nvml import gpu_reader
from jaxdp.hardware.resources import ResourceSampler, cpu_reader, device_memory_reader, read_host_memory
from jaxdp.metrics import RESOURCE_METRICS


def sampler_of(*reads, every_secs=0.0):
    said = []
    return ResourceSampler([(f"reader {n}", read) for n, read in enumerate(reads)], every_secs, said.append), said


def values(name, *numbers):
    """A reader that returns one number after the other."""
    numbers = iter(numbers)
    return lambda: {name: next(numbers)}


# ---- Sampler ----------------------------------------------------------------


def test_a_line_has_the_mean_of_utilisations_and_the_maximum_of_all_else_since_the_last_line():
    sampler, said = sampler_of(values("perf/cpu", 0.5, 0.25, 1.0), values("perf/host_memory", 7, 9, 8))
    sampler.sample()
    sampler.sample()
    assert sampler.take() == {"perf/cpu": 0.375, "perf/host_memory": 9}
    sampler.sample()
    assert sampler.take() == {"perf/cpu": 1.0, "perf/host_memory": 8}
    assert sampler.take() == {} and said == []


def test_a_driver_that_fails_midway_is_reported_once_and_the_others_go_on():
    class DriverError(Exception):
        pass

    calls = []

    def fail():
        calls.append(0)
        if len(calls) > 1:
            raise DriverError("GPU is lost")
        return {"perf/gpu_power": 300.0}

    sampler, said = sampler_of(fail, values("perf/host_memory", 1, 2, 3))
    for _ in range(3):
        sampler.sample()
    assert sampler.take() == {"perf/gpu_power": 300.0, "perf/host_memory": 3}
    assert said == ["reader 0 can no longer be read (GPU is lost); the run goes on without it"] and len(calls) == 2


def test_the_thread_samples_until_the_end_and_0_turns_it_off():
    called = threading.Event()

    def read():
        called.set()
        return {"perf/cpu": 1.0}

    sampler, _ = sampler_of(read, every_secs=0.001)
    with sampler:
        assert called.wait(60)
    sampler._thread.join(60)
    assert not sampler._thread.is_alive() and sampler.take() == {"perf/cpu": 1.0}
    sampler, _ = sampler_of(read)
    with sampler:
        assert not sampler._thread.is_alive()


# ---- Host -------------------------------------------------------------------


def status_bytes(name):
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_host_memory_is_what_the_kernel_says_elsewhere():
    before = read_host_memory()["perf/host_memory"]
    assert before == pytest.approx(status_bytes("VmRSS"), rel=0.05)
    held = np.ones(2**26, np.uint8)
    after = read_host_memory()["perf/host_memory"]
    assert after - before > 0.9 * 2**26 and held.sum() == 2**26
    assert after <= 1.05 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_host_memory_counts_resident_pages(tmp_path):
    (tmp_path / "statm").write_text("5000 1234 100 1 0 900 0\n")
    assert read_host_memory(tmp_path / "statm") == {"perf/host_memory": 1234 * os.sysconf("SC_PAGE_SIZE")}


def test_a_system_without_proc_has_no_host_memory(tmp_path):
    sampler, said = sampler_of(lambda: read_host_memory(tmp_path / "statm"))
    sampler.sample()
    sampler.sample()
    assert sampler.take() == {} and len(said) == 1 and "No such file" in said[0]


def test_cpu_is_the_share_of_the_cores_since_the_last_sample():
    clock, cpu_clock = iter([10.0, 14.0, 16.0, 16.0]), iter([1.0, 3.0, 3.0, 3.0])
    read = cpu_reader(lambda: next(clock), lambda: next(cpu_clock))
    assert read() == {"perf/cpu": pytest.approx(2.0 / 4.0 / num_cores())}
    assert read() == {"perf/cpu": 0.0}
    assert read() == {}  # no time has passed


def test_cpu_time_is_that_of_getrusage():
    used = []
    read = cpu_reader(lambda: 1.0 * len(used), lambda: used.append(0) or time.process_time())
    before = resource.getrusage(resource.RUSAGE_SELF)
    read()
    total = 0
    while total < 3_000_000:
        total += 1
    share = read()["perf/cpu"]
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0 < share * num_cores() <= spent + 0.02


# ---- Devices ----------------------------------------------------------------


def device(**stats):
    return types.SimpleNamespace(memory_stats=lambda: stats)


def test_device_memory_is_that_of_the_fullest_device():
    devices = [device(bytes_in_use=5, peak_bytes_in_use=9), device(bytes_in_use=7, peak_bytes_in_use=8)]
    assert device_memory_reader(devices)() == {"perf/device_memory": 7, "perf/device_memory_peak": 9}
    assert device_memory_reader([device(bytes_in_use=5)])() == {"perf/device_memory": 5}


def test_devices_that_do_not_know_their_memory_have_no_reader():
    assert device_memory_reader(jax.local_devices()) is None and device_memory_reader([]) is None


class Nvml(types.ModuleType):
    """The part of pynvml that is used: GPUs by index, of utilisation 10 * index, power 100 W * index."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self, unsupported=(), count=4):
        super().__init__("pynvml")
        self.unsupported, self.count, self.is_lost, self.is_open = unsupported, count, False, False

    def nvmlInit(self):
        self.is_open = True

    def nvmlDeviceGetHandleByIndex(self, index):
        if not self.is_open or index >= self.count:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return {"GPU-aa": 1, "GPU-bb": 3}[uuid]

    def _value(self, name, value):
        if self.is_lost:
            raise self.NVMLError("GPU is lost")
        if name in self.unsupported:
            raise self.NVMLError_NotSupported("Not Supported")
        return value

    def nvmlDeviceGetUtilizationRates(self, gpu):
        return self._value("utilisation", types.SimpleNamespace(gpu=10 * gpu, memory=99))

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._value("temperature", 40 + gpu)

    def nvmlDeviceGetPowerUsage(self, gpu):
        return self._value("power", 100_000 * gpu)


@pytest.fixture
def nvml(monkeypatch):
    def install(**options):
        module = Nvml(**options)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return install


@pytest.mark.parametrize(
    ("visible", "indices", "expected"),
    [
        ("", (0, 1, 2, 3), (0.15, 43, 600.0)),
        ("2,0", (0, 1), (0.1, 42, 200.0)),
        ("2, 0", (0,), (0.2, 42, 200.0)),
        ("GPU-aa,GPU-bb", (1,), (0.3, 43, 300.0)),
    ],
)
def test_gpus_are_those_that_cuda_shows(nvml, visible, indices, expected):
    nvml()
    names = ("perf/gpu_utilisation", "perf/gpu_temperature", "perf/gpu_power")
    assert gpu_reader(indices, visible)() == pytest.approx(dict(zip(names, expected, strict=True)))


def test_the_environment_says_which_gpus_cuda_shows(nvml, monkeypatch):
    nvml()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert gpu_reader([0])()["perf/gpu_temperature"] == 43


def test_a_value_that_a_gpu_does_not_have_is_left_out(nvml):
    nvml(unsupported=("utilisation", "power"))
    assert gpu_reader([1], "")() == {"perf/gpu_temperature": 41}


def test_a_gpu_that_is_lost_ends_its_reader_alone(nvml):
    module = nvml()
    sampler, said = sampler_of(gpu_reader([1], ""), values("perf/host_memory", 1, 2))
    sampler.sample()
    module.is_lost = True
    sampler.sample()
    assert sampler.take()["perf/gpu_power"] == 100.0 and len(said) == 1 and "GPU is lost" in said[0]


def test_without_the_package_or_the_driver_a_sentence_says_so(nvml, monkeypatch):
    nvml(count=0)
    with pytest.raises(UserError, match=r"not recorded, for the NVIDIA driver gives no access to them \(Invalid Arg"):
        gpu_reader([0], "")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UserError, match=r"nvidia-ml-py is not installed: run pip install 'jaxdp\[nvidia\]'"):
        gpu_reader([0], "")


def test_every_value_is_declared(nvml):
    nvml()
    readers = (read_host_memory, cpu_reader(), device_memory_reader([device(bytes_in_use=1, peak_bytes_in_use=1)]))
    found = {name for read in (*readers, gpu_reader([0], "")) for name in read()}
    assert found == {spec.full_name for spec in RESOURCE_METRICS}
