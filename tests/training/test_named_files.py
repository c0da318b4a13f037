"""Files that a configuration names: the run keeps their content, compares it on resume and works without them."""

import json
import os
import shutil

import pytest
from tiers import others_slow
from tiny_processes import as_processes
from tiny_records import LABELLED, write_records
from tiny_runs import assert_refused, load, metrics_lines, read_data, train, without_run_files

from jaxdp.cli.main import main
from jaxdp.data import tokenization as tokenizing
from jaxdp.data.named_files import NamedFiles, load_named_files
from jaxdp.data.tokenizers import load_tokenizer, make_tokenizer
from jaxdp.errors import UserError
from jaxdp.training.preflight import check_same, statement


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current directory with labelled records, a list of stop words and a tokenizer."""
    write_records(tmp_path / "data.jsonl")
    (tmp_path / "words.txt").write_text("the\non\n")
    make_tokenizer("bpe:300", ["the cat sat on a mat " * 50]).save(tmp_path / "tok.json")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "words.txt").write_text("cat\n")  # of the same name, and another list
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = [
    *(f"--config.{each}" for each in LABELLED),
    "--config.data.path=data.jsonl", "--config.data.tokenizer=tok.json", "--config.eval.metric=eval/loss",
    "--config.data.cleaning=('stopwords:words.txt',)", "--config.checkpoint.every_steps=3", "--config.eval.every_steps=0",
]  # fmt: skip
LONGER = "--config.total_steps=9"


def start(config_file, place, *more):
    return train(config_file, place / "run", *OPTIONS, *more)


def predicted(place, capsys):
    capsys.readouterr()
    assert main(["predict", f"--workdir={place}/run", "--text=The cat sat on the mat", "--cpu_devices=8"]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_and_eval_work_from_another_directory_and_with_other_files(config_file, place, capsys, monkeypatch):
    assert start(config_file, place) == 0
    expected = predicted(place, capsys)
    assert load_named_files(place / "run" / "named_files.json").words == {"stopwords:words.txt": ["on", "the"]}
    monkeypatch.chdir(place / "elsewhere")
    assert predicted(place, capsys) == expected
    (place / "words.txt").unlink()
    (place / "tok.json").unlink()
    assert predicted(place, capsys) == expected
    assert main(["eval", f"--workdir={place}/run", "--cpu_devices=8", "--json"]) == 0
    other = f"--config.data.eval_path={place}/data.jsonl"
    assert main(["eval", f"--workdir={place}/run", "--cpu_devices=8", "--json", other]) == 0


@pytest.mark.slow  # predict above
def test_generate_cleans_a_prompt_with_the_words_of_the_run(config_file, place, capsys, monkeypatch):
    options = (
        "--config.data.cleaning=('stopwords:words.txt',)",
        "--config.eval.every_steps=0",
        "--config.data.tokenizer=byte",
    )
    assert train(config_file, place / "run", *options) == 0
    monkeypatch.chdir(place / "elsewhere")
    capsys.readouterr()
    assert (
        main(
            [
                "generate",
                f"--workdir={place}/run",
                "--prompt=the cat",
                "--max_new_tokens=2",
                "--json",
                "--cpu_devices=8",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["prompt"] == " cat"


@pytest.mark.parametrize("name", others_slow(["words.txt", "tok.json"], "words.txt"))
def test_a_run_is_not_continued_with_an_edited_file(config_file, place, capsys, name):
    assert start(config_file, place) == 0
    content = (place / name).read_text()
    (place / name).write_text("cat\n" if name == "words.txt" else content.replace('"cat"', '"tac"'))
    capsys.readouterr()
    assert start(config_file, place, LONGER) == 2
    key = "data.cleaning: stopwords:words.txt" if name == "words.txt" else "data.tokenizer: tok.json"
    assert (
        f"holds a run with other content of its named files: {key} has changed since the run began"
        in assert_refused(capsys)
    )
    (place / name).write_text(content)
    assert start(config_file, place, LONGER) == 0


def test_a_run_continues_without_the_files(config_file, place, capsys):
    assert start(config_file, place) == 0
    shutil.copytree(place / "run", place / "copy")
    assert train(config_file, place / "copy", *OPTIONS, LONGER) == 0
    (place / "words.txt").unlink()
    (place / "tok.json").unlink()
    assert start(config_file, place, LONGER) == 0
    losses = [[line["train/loss"] for line in metrics_lines(place / name)] for name in ("run", "copy")]
    assert len(losses[0]) == 9 and losses[0] == losses[1]


@pytest.mark.slow  # such a run is also test_checkpoints_of_earlier_versions_stay_readable
def test_a_run_from_before_jaxdp_kept_files_continues(config_file, place):
    assert start(config_file, place) == 0
    (place / "run" / "named_files.json").unlink()
    without_run_files(place / "run")
    assert start(config_file, place, LONGER) == 0
    assert load_named_files(place / "run" / "named_files.json").words == {"stopwords:words.txt": ["on", "the"]}


def test_words_that_were_changed_in_the_run_itself_are_refused(config_file, place, capsys):
    """The checkpoint knows by which words its data were cleaned."""
    assert start(config_file, place) == 0
    (place / "words.txt").unlink()
    NamedFiles({"stopwords:words.txt": ["cat"]}).save(place / "run" / "named_files.json")
    capsys.readouterr()
    assert start(config_file, place, LONGER) == 4
    assert f"{place / 'run' / 'named_files.json'} has " in assert_refused(capsys, 4)
    without_run_files(place / "run")
    assert start(config_file, place, LONGER) == 2
    assert "The checkpoint was trained on other data than this run has (cleaning: ['stopwords:" in assert_refused(
        capsys
    )


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{}", b'{"words": {"a": 3}, "tokenizers": {}}', b"[" * 100_000])
def test_a_damaged_file_of_the_run_is_a_sentence(tmp_path, content):
    (tmp_path / "named_files.json").write_bytes(content)
    with pytest.raises(UserError, match=r"named_files\.json does not hold the word lists"):
        load_named_files(tmp_path / "named_files.json")
    (tmp_path / "named_files.json").unlink()
    (tmp_path / "named_files.json").mkdir()
    with pytest.raises(UserError, match=r"named_files\.json cannot be read"):
        load_named_files(tmp_path / "named_files.json")


@pytest.mark.parametrize("name", ["words.txt", "tok.json"])
def test_a_file_that_changes_while_data_are_prepared_is_read_once(config_file, place, monkeypatch, name):
    """Rewritten after the start and put back: the entries hold what their names say."""
    overrides = [option.removeprefix("--config.") for option in OPTIONS]
    whole = read_data(load(config_file, *overrides, f"data.cache_dir={place}/whole"))
    content, make_vocabularies = (place / name).read_text(), tokenizing.make_vocabularies

    def change_first(*arguments):
        (place / name).write_text("cat\n" if name == "words.txt" else content.replace('"cat"', '"tac"'))
        return make_vocabularies(*arguments)

    monkeypatch.setattr("jaxdp.data.assembly.make_vocabularies", change_first)
    changed = read_data(load(config_file, *overrides, f"data.cache_dir={place}/cache"))
    assert changed.identity == whole.identity
    assert sorted(os.listdir(place / "cache")) == sorted(os.listdir(place / "whole"))
    tokens = [data.train.rows(range(data.train.num_rows))["tokens"].tolist() for data in (whole, changed)]
    assert tokens[0] == tokens[1]
    [entry] = (place / "cache").glob("tokenizer-*/tokenizer.json")
    assert load_tokenizer(entry).to_json() == whole.vocabularies.tokenizer.to_json()


def test_processes_with_other_words_or_tokenizers_do_not_train_together(config_file, place):
    config = load(config_file, *(option.removeprefix("--config.") for option in OPTIONS))
    first = read_data(config).identity
    (place / "words.txt").write_text("cat\n")
    second = read_data(config).identity
    assert first["data fingerprint"] == second["data fingerprint"]

    def check(control_plane):
        check_same(control_plane, statement(config, (first, second)[control_plane.process_index], 6))

    for error in as_processes(2, check):
        assert isinstance(error, UserError) and "cleaning: [" in str(error)
