"""A run on a stream: killed at any step and gone on with, it ends as one that was not."""

import itertools
import json

import numpy as np
import pytest
from tiny_runs import assert_same_bits, load, metrics_lines, read_data, saved_arrays

import jaxdp
from jaxdp.data.loader import Shard, make_loader
from jaxdp.errors import UserError
from jaxdp.inference import evaluator
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.tasks.make import dataset_spec, make_task
from jaxdp.training.train import train as run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three shards to train on, one held out."""
    root = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 3), ("validation", 1)):
        for shard in range(count):
            lines = [json.dumps({"text": f"{split} {shard} line {n} " * (1 + n % 5)}) for n in range(12)]
            (root / f"{split}-{shard}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def stream(config_file, folder, *overrides):
    return load(config_file, "data.source=hf_stream", f"data.path={folder}", "data.eval_split=validation", *overrides)


def test_it_goes_on_bitwise(config_file, folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(stream(config_file, folder), str(whole))
    # The schedule is that of six steps: it depends on total_steps.
    constant = ("optim.schedule=constant",)
    run(stream(config_file, folder, *constant), str(tmp_path / "constant"))
    for steps in (2, 5, 6):
        run(stream(config_file, folder, *constant, f"total_steps={steps}"), str(parts))
    assert_same_bits(saved_arrays(parts, 6), saved_arrays(tmp_path / "constant", 6))
    hashes = [[line["data/batch_hash"] for line in metrics_lines(run_, "data/batch_hash")] for run_ in (whole, parts)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 6


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_it_gives_the_batches_and_the_held_out_rows_of_prepared_data(config_file, folder, task):
    shared = (f"task={task}", "data.shuffle=False", "eval.num_batches=1")
    paths = (f"data.path={folder}/train-*.jsonl", f"data.eval_path={folder}/validation-0.jsonl")
    streamed = stream(config_file, folder, *shared)
    prepared = load(config_file, "data.source=jsonl", *paths, *shared)
    one, other = ((config, read_data(config)) for config in (streamed, prepared))
    num_steps = other[1].train.num_rows // 16 + 1  # into the next epoch
    assert num_steps > 5
    batches = []
    for config, data in (one, other):
        task = make_task(config, data.vocabularies)
        loader = make_loader(dataset_spec(config), data, task, task.make_batch, Shard(1, 0))
        batches.append(list(itertools.islice(loader.batches(0), num_steps)))
    for left, right in zip(*batches, strict=True):
        assert left.keys() == right.keys()
        for name, array in left.items():
            np.testing.assert_array_equal(array, right[name], err_msg=name, strict=True)
    held_out = [data.evaluation.rows(np.arange(16)) for _, data in (one, other)]
    np.testing.assert_array_equal(*(rows["tokens"] for rows in held_out))
    assert one[1].evaluation.num_rows == 16


@pytest.mark.parametrize("override", ["task=classification", "task=seq2seq", "causal_lm.completion_only=True"])
def test_tasks_that_read_no_windows_are_told_to_prepare(config_file, folder, override):
    with pytest.raises(
        UserError, match=r"reads whole examples, which a stream does not provide; prepare .*data\.source=hf"
    ):
        read_data(stream(config_file, folder, override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("total_epochs=1", "has no known end"),
        ("data.tokenizer=bpe:300", "cannot train one"),
        ("data.packing=documents", "choose cut"),
        ("eval.num_batches=0", "number of validation batches"),
        ("data.cleaning=('lowercase',)", "clean it beforehand"),
    ],
)
def test_what_a_stream_cannot_do(config_file, folder, override, message):
    with pytest.raises(UserError, match=message):
        read_data(stream(config_file, folder, override))


def test_a_buffer_is_said_to_be_inexact_once(config_file, folder, capsys):
    data = read_data(stream(config_file, folder, "data.shuffle_buffer=5"))
    assert capsys.readouterr().err.count("resume inexact") == 1
    assert "inexactly" in data.summary[0]


def test_a_second_evaluation_reads_its_rows_again_and_compiles_nothing(config_file, folder, tmp_path, monkeypatch):
    run(stream(config_file, folder), tmp_path)
    compiled = []
    monkeypatch.setattr(
        evaluator,
        "compile_spmd",
        lambda *args, **options: compiled.append(compile_spmd(*args, **options)) or compiled[-1],
    )
    model = jaxdp.load(tmp_path)
    first = model.evaluate()
    assert len(compiled) == 1
    assert model.evaluate() == first and len(compiled) == 1
    held_out = folder / "validation-0.jsonl"
    before = held_out.read_text()
    held_out.write_text("\n".join(json.dumps({"text": f"other {n} " * 9}) for n in range(12)) + "\n")
    try:
        assert model.evaluate()["eval/loss"] != first["eval/loss"] and len(compiled) == 1
    finally:
        held_out.write_text(before)
