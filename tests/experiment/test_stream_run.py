"""A run on a stream: killed at any step and gone on with, it ends as one that was not."""

import json

import pytest
from tiny_runs import assert_same_bits, load, metrics_lines, saved_arrays

from jaxdp.errors import UserError
from jaxdp.experiment.data import read_data
from jaxdp.experiment.train import run


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
    return load(
        config_file, "data.source=hf_stream", f"data.path={folder}", "data.eval_split=validation", *overrides
    )


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("total_epochs=1", "has no known end"),
        ("data.tokenizer=bpe:300", "cannot train one"),
        ("data.packing=documents", "choose cut"),
        ("eval.num_batches=0", "how many batches to hold out"),
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
