"""`data.length` of an import: long rotary contexts are shortened without a change of the model, and `--length` chooses."""

import json

import pytest
from test_weight_families import config_json, folder_tensors
from tiny_folders import GPT2, gpt2_shapes, random_tensors, write_folder

from jaxdp.cli.main import main
from jaxdp.config import from_json
from jaxdp.data.labels import Labels
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.interop.exporting import _described, export_model
from jaxdp.interop.hf_folder import MAX_ROTARY_LENGTH, HuggingFaceFolder, run_length
from jaxdp.interop.open_source import open_source
from jaxdp.tasks.architecture import architecture
from jaxdp.tasks.make import make_task
from jaxdp.workdir import WorkDir

CONTEXT = 131072
SCALING = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
"""Scaling whose original length is that of the model."""


def write(folder, case, **changes):
    config = config_json(case, **changes)
    return write_folder(folder, config, folder_tensors(config))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long") / "hf"
    return write(folder, "llama", max_position_embeddings=CONTEXT, rope_scaling=SCALING)


def run_import(folder, workdir, *options):
    assert main(["import", f"--from={folder}", f"--workdir={workdir}", *options]) == 0
    return from_json(json.loads((workdir / "config.json").read_text()))


def test_a_long_rotary_context_is_shortened_and_nothing_else(long, tmp_path, capsys):
    short = run_import(long, tmp_path / "short")
    told = capsys.readouterr().err
    assert short.data.length == MAX_ROTARY_LENGTH
    assert f"data.length is {MAX_ROTARY_LENGTH} of the model's {CONTEXT} positions" in told
    assert "nothing is lost: import again with --length=N" in told and told.count("data.length is") == 1
    whole = run_import(long, tmp_path / "whole", f"--length={CONTEXT}")
    assert whole.data.length == CONTEXT and "data.length is" not in capsys.readouterr().err
    assert short.model == whole.model and short.model.rope_original_length == CONTEXT
    assert architecture(short, make_task(short), 96).max_length == MAX_ROTARY_LENGTH
    out = export_model(tmp_path / "short", tmp_path / "out")
    assert (out / "config.json").read_bytes() == (long / "config.json").read_bytes()


def test_short_contexts_and_other_positions_keep_their_length(tmp_path):
    for case in ("llama", "t5_v1_1", "marian"):
        folder = HuggingFaceFolder(open_source(write(tmp_path / case, case)))
        assert folder.run_values()["data"]["length"] == folder.spec.max_length
        assert folder.run_values(8)["data"]["length"] == 8
    folder = HuggingFaceFolder(open_source(write(tmp_path / "learned", "gpt2", n_positions=4096)))
    assert folder.run_values()["data"]["length"] == 4096


@pytest.mark.parametrize("length", ["0", "-1", str(CONTEXT + 1), "many", "1.5", ""])
def test_bad_lengths_exit_with_2(long, tmp_path, capsys, length):
    arguments = ["import", f"--from={long}", f"--workdir={tmp_path / 'work'}", f"--length={length}"]
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2 and not (tmp_path / "work").exists()
    told = capsys.readouterr().err
    assert f"must be from 1 to {CONTEXT}, the context of the model" in told or "argument --length" in told


def test_learned_positions_are_not_cut(tmp_path, capsys):
    folder = write_folder(tmp_path / "hf", GPT2, random_tensors(gpt2_shapes()))
    assert main(["import", f"--from={folder}", f"--workdir={tmp_path / 'work'}", "--length=8"]) == 2
    assert "--length=8 would cut the table of 16 learned positions" in capsys.readouterr().err
    assert run_import(folder, tmp_path / "work", "--length=16").data.length == 16


def test_a_classifier_trained_from_it_keeps_the_context_in_an_export(long, tmp_path):
    config = run_import(long, tmp_path / "work").replaced(task="classification", data={"packing": "none"})
    labels = Labels(kind="single_label", num_records=0, names=("a", "b"), counts=(0, 0))
    vocabularies = Vocabularies(labels=labels)
    config = config.replaced(
        task_groups={
            **config.task_groups,
            "classification": {**config.task_groups["classification"], "pooling": "last"},
        },
        model={"classifier_bias": False},
    )
    model = architecture(config, make_task(config, vocabularies), 96)
    _, name, _, theirs = _described(config, model, vocabularies, WorkDir(tmp_path / "work"))
    assert (name, theirs["max_position_embeddings"]) == ("LlamaForSequenceClassification", CONTEXT)


def test_a_longer_context_is_exported(long, tmp_path):
    config = run_import(long, tmp_path / "work").replaced(data={"length": 2 * CONTEXT})
    model = architecture(config, make_task(config), 96)
    theirs = _described(config, model, Vocabularies(), WorkDir(tmp_path / "work"))[-1]
    assert theirs["max_position_embeddings"] == 2 * CONTEXT
    assert theirs["rope_scaling"]["original_max_position_embeddings"] == CONTEXT


def test_a_sentence_encoder_reads_what_its_settings_say(tmp_path):
    folder = HuggingFaceFolder(open_source(write(tmp_path / "hf", "modernbert_encoder", max_position_embeddings=8192)))
    lengths = [run_length(folder.spec, *arguments) for arguments in ((None,), (None, 512), (None, 4096), (128, 4096))]
    assert lengths == [MAX_ROTARY_LENGTH, MAX_ROTARY_LENGTH, 4096, 128]
