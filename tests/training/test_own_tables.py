"""Tables as spreadsheets of other countries write them: trained on, evaluated and answered with the same two keys."""

import json

import pytest
from tiny_runs import assert_refused, load, read_data, train
from tiny_tasks_data import CONFIG

from jaxdp.cli.main import main

TASK = ("task=classification", "data.source=csv", "data.length=16")
KEYS = ("data.delimiter=;", "data.encoding=cp1252")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("own_tables")
    kinds = ("naïve \u2013 café;herb", "Grüße, Welt;süß")
    rows = [f"{number};{kinds[number % 2]}" for number in range(40)]
    (root / "table.csv").write_bytes("\r\n".join(["nr;text;label", *rows, ""]).encode("cp1252"))
    (root / "config.py").write_text(CONFIG.format(path=str(root / "table.csv")))
    return root


def flags(*keys):
    return [f"--config.{key}" for key in keys]


def test_each_refusal_leads_to_the_next_key_and_then_to_a_run(table, capsys):
    config_file, workdir = table / "config.py", table / "run"
    options = flags(*TASK, "total_steps=2", "eval.every_steps=0", "checkpoint.every_steps=0")
    assert train(config_file, workdir, *options) == 2
    assert "set data.delimiter=';'" in assert_refused(capsys)
    assert train(config_file, workdir, *options, *flags(KEYS[0])) == 2
    assert (
        "is not UTF-8 text: byte 0xef at offset" in (told := assert_refused(capsys))
        and "set data.encoding=cp1252" in told
    )
    assert train(config_file, workdir, *options, *flags(*KEYS)) == 0
    capsys.readouterr()
    assert json.loads((workdir / "labels.json").read_text(encoding="utf-8"))["names"] == ["herb", "süß"]

    assert main(["predict", f"--workdir={workdir}", f"--input={table / 'table.csv'}"]) == 0
    out, _ = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 40 and {answer["input_label"] for answer in answers} == {"herb", "süß"}
    # JSON is UTF-8 whatever the tables are in.
    (table / "more.jsonl").write_text('{"text": "Grüße", "id": "ä"}\n', encoding="utf-8")
    assert main(["predict", f"--workdir={workdir}", f"--input={table / 'more.jsonl'}"]) == 0
    [answer] = map(json.loads, capsys.readouterr().out.splitlines())
    assert answer["id"] == "ä"

    (table / "comma.csv").write_text("text,label\nx,herb\n")
    assert main(["predict", f"--workdir={workdir}", f"--input={table / 'comma.csv'}"]) == 2
    assert "or separate its fields by ';' and not by ','" in assert_refused(capsys)
    other = flags(f"data.eval_path={table / 'comma.csv'}", "data.delimiter=,", "data.encoding=utf-8")
    assert main(["eval", f"--workdir={workdir}", "--json", *other]) == 0
    capsys.readouterr()


def test_entries_of_a_mixture_have_their_own(table, capsys):
    entry = {"source": "csv", "path": str(table / "table.csv")}
    config_file = table / "config.py"
    assert train(config_file, table / "mixed", *flags(*TASK, f"data.mixture=({entry},)", "data.delimiter=;")) == 2
    assert (
        "data.delimiter=; describes a single source: unset it, and set it in the entries of data.mixture"
        in assert_refused(capsys)
    )
    own = entry | {"delimiter": ";", "encoding": "cp1252"}
    data = read_data(load(config_file, *TASK, f"data.mixture=({own},)"))
    assert data.train.num_rows + data.evaluation.num_rows == 40


def test_keys_that_are_unset_change_no_cache_entry(table, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "a b,x\nc d,y\n" * 20)
    config = load(table / "config.py", *TASK, f"data.path={tmp_path / 'a.csv'}", f"data.cache_dir={tmp_path / 'cache'}")
    read_data(config)
    [scan] = (tmp_path / "cache").glob("scan-*/scan.json")
    explicit = load(
        table / "config.py",
        *TASK,
        f"data.path={tmp_path / 'a.csv'}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.delimiter=,",
    )
    read_data(explicit)
    scans = sorted((tmp_path / "cache").glob("scan-*/scan.json"))
    assert len(scans) == 2 and scan in scans  # it may have been read otherwise
    assert len(list((tmp_path / "cache").glob("tokens-*/entry.json"))) == 1  # but was not


def test_linked_folders_are_said(table, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "a.csv").write_text("text,label\n" + "a b,x\nc d,y\n" * 20)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    capsys.readouterr()
    read_data(load(table / "config.py", *TASK, f"data.path={tmp_path / 'data'}"))
    assert f"data.path: linked folders in {tmp_path / 'data'} are not read: 'link'" in capsys.readouterr().err
