"""Runs on records that the caller gives, and their resume."""

import datasets
import pytest
from tiny_runs import load, metrics_lines

import jaxdp
from jaxdp.cli.main import main
from jaxdp.data.reading import python_records
from jaxdp.data.reading.python_records import keep_records
from jaxdp.errors import UserError
from jaxdp.inference.other_data import other_data

RECORDS = [{"text": f"old pond, frog {number}\nwater\n", "number": number} for number in range(200)]


def run(config_file, workdir, data, *overrides, total_steps=3):
    config = load(
        config_file, f"total_steps={total_steps}", "optim.schedule=constant", "eval.every_steps=0", *overrides
    )
    return jaxdp.train(config, workdir, data=data)


def losses(workdir):
    return [line["train/loss"] for line in metrics_lines(workdir)]


def test_a_run_on_records_resumes_with_equal_records_only(config_file, tmp_path):
    run(config_file, tmp_path / "run", iter(RECORDS))
    changed = [*RECORDS[:-1], {"text": "another", "number": 199}]
    for other in (changed, RECORDS[:-1]):
        with pytest.raises(UserError, match=r"data\.name: 'sha256:\w+' in the run, 'sha256:\w+' now"):
            run(config_file, tmp_path / "run", other, total_steps=5)
    with pytest.raises(UserError, match=r"data\.source: 'python' in the run"):
        jaxdp.train(load(config_file, "total_steps=5"), tmp_path / "run")
    assert (
        run(config_file, tmp_path / "run", [dict(reversed(record.items())) for record in RECORDS], total_steps=5).step
        == 5
    )
    run(config_file, tmp_path / "whole", RECORDS, total_steps=5)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_records_train_as_a_file_of_them(config_file, tmp_path):
    path = tmp_path / "records.jsonl"
    datasets.Dataset.from_list(RECORDS).to_json(path)
    jaxdp.train(
        load(
            config_file,
            "total_steps=3",
            "optim.schedule=constant",
            "eval.every_steps=0",
            "data.source=jsonl",
            f"data.path={path}",
        ),
        tmp_path / "file",
    )
    run(config_file, tmp_path / "records", RECORDS)
    run(config_file, tmp_path / "dataset", datasets.Dataset.from_list(RECORDS))
    assert losses(tmp_path / "file") == losses(tmp_path / "records") == losses(tmp_path / "dataset")


def test_another_process_is_told_to_give_the_records(config_file, tmp_path, monkeypatch, capsys):
    run(config_file, tmp_path / "run", RECORDS)
    assert jaxdp.evaluate(tmp_path / "run")["step"] == 3
    (tmp_path / "other.txt").write_text("a new frog\n" * 50)
    monkeypatch.setattr(python_records, "_RECORDS", {})
    other = [f"--config.data.eval_path={tmp_path / 'other.txt'}"]
    assert main(["eval", f"--workdir={tmp_path / 'run'}", "--config.data.source=text", *other]) == 0
    assert main(["eval", f"--workdir={tmp_path / 'run'}", *other]) == 2
    assert "was trained with data.source=python, which reads no files: say how" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"give them to jaxdp\.train\(\.\.\., data=records\)"):
        jaxdp.evaluate(tmp_path / "run")


def test_other_data_is_not_read_by_the_fingerprint_of_the_records(config_file):
    config = load(config_file).replaced(data={"source": "python", "path": None, "name": "sha256:12"})
    other = other_data(config, "eval", {"source": "hf", "path": "saved", "eval_split": "test"})
    assert (other.data.source, other.data.name) == ("hf", None)


def test_a_dataset_is_known_by_its_own_fingerprint():
    dataset = datasets.Dataset.from_list(RECORDS)
    assert keep_records(dataset) == dataset._fingerprint != keep_records(dataset.select(range(3)))


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (3, "data must be an iterable of dicts or a datasets.Dataset, found 3 (int)"),
        ("text", "data must be an iterable of dicts or a datasets.Dataset, found"),
        ({"train": RECORDS}, "choose a split of it, such as data['train']"),
        (["text"], "data, record 0 must be a dict from column to value, found"),
        (
            [{"text": "a"}, {"text": object()}],
            "data, record 1 has a value that cannot be fingerprinted (of type object)",
        ),
        ([{"body": "a"}] * 9, "text"),
        ([], "has no record"),
    ],
)
def test_wrong_records_are_one_sentence(data, fragment, config_file, tmp_path):
    with pytest.raises(UserError) as error:
        run(config_file, tmp_path, data)
    assert fragment in str(error.value)


def test_records_beside_a_mixture_are_refused(config_file, tmp_path):
    config = load(config_file).replaced(data={"mixture": ({"source": "text", "path": "books"},)})
    with pytest.raises(UserError, match=r"data=\.\.\. is the only source of a run: set data\.mixture=\(\)"):
        jaxdp.train(config, tmp_path, data=RECORDS)
