"""Readers that a run samples, by its devices."""

import sys
from types import SimpleNamespace

import jax

from jaxdp.training.resource_readers import resource_readers


def topology(platform, kind, *hardware_ids, **device):
    devices = [
        SimpleNamespace(process_index=jax.process_index(), local_hardware_id=number, **device)
        for number in hardware_ids
    ]
    return SimpleNamespace(platform=platform, kind=kind, devices=devices)


def names(readers):
    return [name for name, _ in readers]


def test_a_cpu_knows_the_memory_and_time_of_the_process():
    readers = resource_readers(topology("cpu", "cpu", 0, memory_stats=lambda: None))
    assert names(readers) == ["the memory of this process", "CPU time"]


def test_accelerators_know_their_memory_too(capsys):
    tpu = topology("tpu", "TPU v5 lite", 0, 1, memory_stats=lambda: {"bytes_in_use": 3})
    tpu.devices.append(SimpleNamespace(process_index=jax.process_index() + 1))  # has no memory that could be read here
    *_, (name, read) = resource_readers(tpu)
    assert name == "the memory of the devices" and read() == {"perf/device_memory": 3}
    assert capsys.readouterr().err == ""


def test_gpus_are_read_by_their_number_and_a_missing_package_is_named_once(monkeypatch, capsys):
    gpus = topology("gpu", "NVIDIA H100 80GB HBM3", 2, 5, memory_stats=lambda: None)
    asked = []
    monkeypatch.setattr("jaxdp.training.resource_readers.gpu_reader", lambda indices: asked.append(indices))
    assert names(resource_readers(gpus))[-1] == "the state of the GPUs" and asked == [[2, 5]]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "the state of the GPUs" not in names(resource_readers(gpus))
    assert capsys.readouterr().err.count("pip install 'jaxdp[nvidia]'") == 1
