"""Limits of the host's memory: what is refused before it is built, and that the bound is never above what XLA allocates."""

import pytest
from tiny_runs import assert_refused, load, model_of, setup_of, train
from tiny_tasks_data import CONFIG, write_records

from jaxdp.errors import UserError
from jaxdp.parallel.devices import divide_batch
from jaxdp.training import size_limits
from jaxdp.training.setup import TrainingSetup
from jaxdp.training.size_limits import batch_bytes, min_activation_bytes

TASKS = {
    "causal_lm": (),
    "packed": ("data.packing=documents",),
    "remat": ("model.remat=full",),
    "unrolled": ("model.scan_layers=False",),
    "bfloat16": ("model.dtype=bfloat16",),
    "grouped_queries": ("model.num_kv_heads=1",),
    "completion": ("causal_lm.completion_only=True",),
    "masked_lm": ("task=masked_lm", "eval.metric=eval/accuracy"),
    "classification": ("task=classification", "eval.metric=eval/accuracy"),
    "first_token": ("task=classification", "eval.metric=eval/accuracy", "classification.pooling=first"),
    "last_token": (
        "task=classification",
        "eval.metric=eval/accuracy",
        "classification.pooling=last",
        "model.scan_layers=False",
    ),
    "seq2seq": ("task=seq2seq", "data.target_length=40"),
}
QUICK = ("causal_lm", "masked_lm")
"""Those that are compiled in the quick tests too."""


@pytest.fixture(scope="module")
def config_of_tasks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sizes")
    write_records(directory / "records.jsonl")
    (directory / "config.py").write_text(CONFIG.format(path=str(directory / "records.jsonl")))
    return directory / "config.py"


@pytest.mark.parametrize(
    "task", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TASKS]
)
def test_the_bound_is_below_what_xla_allocates(config_of_tasks, task):
    rows, microbatch_size = 16, 8
    config = load(config_of_tasks, *TASKS[task], f"global_batch_size={8 * rows}")
    setup = setup_of(config)
    shape = divide_batch(8 * rows, microbatch_size, 8)
    allocated = setup.compile_step(shape=shape).device_bytes
    bound = batch_bytes(setup.task, rows) + min_activation_bytes(setup.task, setup.model.config, shape.microbatch_size)
    assert 0 < bound < allocated


def test_the_size_of_a_batch_is_that_of_its_arrays(config_file):
    config = load(config_file)
    setup = setup_of(config)
    batch = next(setup.loader.batches(0))
    assert batch_bytes(setup.task, 16) == sum(array.nbytes for array in batch.values())


LARGE = {
    "batch": (["global_batch_size=8000"], "make global_batch_size or data.length smaller"),
    "length": (["data.length=20000", "data.packing=documents"], "make global_batch_size or data.length smaller"),
    "microbatch": (["global_batch_size=800", "microbatch_size=100"], "make microbatch_size or data.length smaller"),
    "prefetch": (
        ["global_batch_size=2000", "data.prefetch_batches=10"],
        "arrays of 11 batches, data.prefetch_batches of them made ahead",
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_batch_that_the_host_cannot_hold_is_refused_before_it_is_compiled(
    config_file, tmp_path, monkeypatch, capsys, case
):
    monkeypatch.setattr(size_limits, "host_memory_bytes", lambda: 2 << 20)
    monkeypatch.setattr(TrainingSetup, "compile", lambda self: pytest.fail("it was compiled"))
    changes, sentence = LARGE[case]
    capsys.readouterr()
    assert train(config_file, tmp_path / "run", *(f"--config.{change}" for change in changes)) == 2
    found = assert_refused(capsys)
    assert sentence in found and "and the host" not in found
    assert "takes at least" in found and "this host" in found and "which has 2.0 MiB" in found


def test_microbatches_that_fit_are_not_refused(config_file, tmp_path, monkeypatch):
    """The cure that the message names is one."""
    monkeypatch.setattr(size_limits, "host_memory_bytes", lambda: 2 << 20)
    config = load(config_file, "global_batch_size=800", "microbatch_size=1", "data.prefetch_batches=1")
    setup_of(config)


def test_learned_positions_count_among_the_parameters(config_file):
    config = load(config_file, "data.length=1000000000000", "model.positions=learned")
    with pytest.raises(UserError, match=r"data\.length=1000000000000\) take at least .* TiB, and this host has"):
        model_of(config, 257)


def test_accelerators_hold_one_batch_on_the_host(config_file, monkeypatch):
    config = load(config_file)
    setup = setup_of(config)
    size = batch_bytes(setup.task, 16)

    class Accelerators:
        platform, num_processes, num_local_devices = "gpu", 1, 8

    def check(memory):
        monkeypatch.setattr(size_limits, "host_memory_bytes", lambda: memory)
        size_limits.check_batch_size(setup.task, setup.model.config, setup.shape, Accelerators, num_batches=3)

    check(size)
    with pytest.raises(UserError, match="for the arrays of one batch"):
        check(size - 1)
