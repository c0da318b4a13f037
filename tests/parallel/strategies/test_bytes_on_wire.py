"""`perf/bytes_on_wire` against the collectives of compiled programs, counted from their text."""

import math
import re

import pytest
from tiers import others_slow
from tiny_runs import compilation_cache, config_file, metrics_lines, setup_of, train
from tiny_runs import load as load_config

__all__ = ["compilation_cache", "config_file"]

MODEL = ("model.embed_dim=64", "model.num_layers=3", "optim.name=adamw", "model.dtype=float32")
CONTROL_WORD = {("u32", 4), ("s32", 1)}
COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all)\(")
SIZES = {"f32": 4, "u8": 1, "bf16": 2}


def group_size(line):
    """Devices of one group: `{{0,1},{2,3}}` lists them, `mesh['devices'=8] {'devices'}` (JAX 0.12) names axes of a mesh."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    mesh, axes = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line).groups()
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", axes))


def counted(text, times_inside):
    """Bytes that a device sends by ring algorithms; what a loop or a branch contains counts as often as it runs in a step."""
    total, times = 0.0, 1.0
    for line in text.splitlines():
        if line and not line[0].isspace():
            times = 1.0 if line.startswith("ENTRY") else times_inside
        match = COLLECTIVE.search(line)
        if not match:
            continue
        num_devices = group_size(line)
        arrays = [
            (kind, math.prod(map(int, filter(None, shape.split(",")))))
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        ]
        size = sum(SIZES[kind] * elements for kind, elements in arrays if (kind, elements) not in CONTROL_WORD)
        if match[2] == "reduce-scatter":
            size *= num_devices  # its result is a shard
        total += times * size * (2 if match[2] == "all-reduce" else 1) * (num_devices - 1) / num_devices
    return total


STRATEGIES = {
    "pmean": (),
    "zero1": ("parallel.sync=zero1",),
    "zero3": ("parallel.sync=zero3",),
    "int8": ("parallel.wire_dtype=int8",),
    "int4": ("parallel.wire_dtype=int4",),
    "delayed": ("parallel.sync=delayed", "parallel.delay_steps=2"),
    "local": ("parallel.sync=local", "parallel.local_steps=5", "parallel.num_workers=8"),
    "local int4": (
        "parallel.sync=local", "parallel.local_steps=5", "parallel.num_workers=4", "parallel.local_fragments=2",
        "parallel.wire_dtype=int4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("strategy", others_slow(STRATEGIES, "pmean", "zero3", "local int4"))
def test_bytes_are_those_of_the_compiled_step(config_file, strategy):
    options = (*STRATEGIES[strategy], "model.scan_layers=True", "global_batch_size=8")
    setup = setup_of(load_config(config_file, *MODEL, *options))
    text = setup.compile_step().call.as_text()
    times_inside = 1 / 5 if "local" in strategy else 3  # branches of a synchronisation; layers
    assert setup.bytes_on_wire == pytest.approx(counted(text, times_inside), rel=1e-12)


def test_microbatches_and_the_compute_dtype_count_where_parameters_are_gathered(config_file):
    def of(*options):
        return setup_of(load_config(config_file, *MODEL, *options)).bytes_on_wire

    one, two = (of("parallel.sync=zero3", f"global_batch_size={8 * number}") for number in (1, 2))
    half = of("parallel.sync=zero3", "global_batch_size=8", "model.dtype=bfloat16")
    assert one < two < 2 * one and half < one
    pmean = [of("parallel.sync=pmean", f"global_batch_size={8 * number}") for number in (1, 2)]
    assert pmean[0] == pmean[1] == of("global_batch_size=8", "model.dtype=bfloat16")
    assert of("parallel.wire_dtype=bfloat16") == pytest.approx(pmean[0] / 2, rel=1e-3)


def test_int4_differences_every_50_steps_are_387_times_fewer_bytes_than_pmean(config_file):
    """With as many workers as devices: 4 bytes a value against half a byte and 1/64 of a scale, and 50 times as seldom."""
    sizes = ("model.preset=llama_nano", "model.embed_dim=128", "model.num_layers=4", "model.num_heads=4")
    int4 = ("parallel.sync=local", "parallel.local_steps=50", "parallel.wire_dtype=int4")
    pmean, local = (setup_of(load_config(config_file, *sizes, *options)).bytes_on_wire for options in ((), int4))
    assert pmean / local == pytest.approx(50 * 4 / (0.5 + 4 / 256), rel=0.01)


def test_metrics_have_the_bytes(config_file, tmp_path):
    model = (*MODEL, "model.num_layers=1", "total_steps=1", "eval.every_steps=0")
    int4 = "parallel.wire_dtype=int4"
    assert train(config_file, tmp_path, *(f"--config.{each}" for each in (*model, int4))) == 0
    [line] = metrics_lines(tmp_path)
    whole, sent = (setup_of(load_config(config_file, *model, *each)).bytes_on_wire for each in ((), (int4,)))
    assert line["perf/bytes_on_wire"] == sent
    assert whole / sent == pytest.approx(4 / (0.5 + 4 / 256), rel=0.02)
