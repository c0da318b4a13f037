import os
import subprocess
import sys

import fsspec
import pytest

from jaxdp.data.reading.hub import open_dataset
from jaxdp.data.reading.records import Columns
from jaxdp.errors import UserError

datasets = pytest.importorskip("datasets")

TEXT = Columns(("text",))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture
def saved(tmp_path):
    """A folder with splits train (5 rows), test (2 rows) and none (no row)."""
    labels = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": labels, "n": [datasets.Value("float32")]})
    splits = {
        which: datasets.Dataset.from_dict(
            {"text": [f"text {n}" for n in rows], "label": [n % 2 for n in rows], "n": [[n] for n in rows]}, features
        )
        for which, rows in (("train", range(5)), ("test", range(5, 7)))
    }
    splits["none"] = splits["test"].filter(lambda row: False)
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def open_(path, split=None, eval_split=None, columns=TEXT, name=None):
    return open_dataset(str(path), name, split, eval_split, columns, "strict")


def texts(part):
    return [record.fields["text"] for record in part.read()]


def test_saved_data_set_dict(saved):
    train, evaluation = open_(saved, columns=Columns(("text",), ("label",)))
    assert evaluation is None
    records = list(train.read())
    assert [record.fields for record in records] == [
        {"text": f"text {n}", "label": ("no", "yes")[n % 2]} for n in range(5)
    ]
    assert (train.name, records[3].origin) == ("train", "train, row 3")
    assert train.num_bytes > 0
    train, evaluation = open_(saved, "test", "train")
    assert (texts(train), len(texts(evaluation)), evaluation.name) == (["text 5", "text 6"], 5, "train")
    assert texts(train) == ["text 5", "text 6"]  # a part is read again from its start


def test_labels_have_the_names_of_their_classes(tmp_path):
    kind = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features(
        {
            "text": datasets.Value("string"), "one": kind, "several": [kind], "sequence": datasets.Sequence(kind),
            "nested": {"one": kind}, "number": datasets.Value("int64"),
        }
    )  # fmt: skip
    numbers = [1, 0, 1, -1]
    rows = {
        "text": list("abcd"), "one": numbers, "several": [[1, 0], [], [1], [0]], "sequence": [[0], [0, 1], [], [1]],
        "nested": [{"one": n} for n in (0, 0, 1, 1)], "number": numbers,
    }  # fmt: skip
    data_set = datasets.Dataset.from_dict(rows, features)
    data_set.save_to_disk(tmp_path / "one")
    data_set.to_parquet(tmp_path / "files" / "train.parquet")
    expected = {
        "number": numbers,
        "several": [["pos", "neg"], [], ["pos"], ["neg"]],
        "sequence": [["neg"], ["neg", "pos"], [], ["pos"]],
        "nested.one": ["neg", "neg", "pos", "pos"],
    }
    for folder in ("one", "files"):
        part, _ = open_(tmp_path / folder, columns=Columns(("text",), tuple(expected)))
        records = list(part.read())
        assert {column: [record.fields[column] for record in records] for column in expected} == expected
        records = open_(tmp_path / folder, columns=Columns(("text",), ("one",)))[0].read()
        assert [next(records).fields["one"] for _ in range(3)] == ["pos", "neg", "pos"]
        with pytest.raises(UserError, match=r"train, row 3: column 'one' is -1, which is no label .*data\.split"):
            next(records)


def test_saved_data_set_without_splits_and_with_indices(saved, tmp_path):
    chosen = datasets.load_from_disk(saved)["train"].select([4, 0, 2])
    chosen.save_to_disk(tmp_path / "one")
    train, evaluation = open_(tmp_path / "one")
    assert (texts(train), evaluation) == (["text 4", "text 0", "text 2"], None)
    with pytest.raises(UserError, match=r"data\.eval_split=test, but .*one holds one dataset without splits"):
        open_(tmp_path / "one", eval_split="test")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "dev"}, r"data\.split=dev is no split of data\.path=.*saved: choose one of train, test, none"),
        ({"eval_split": "dev"}, r"data\.eval_split=dev is no split"),
        ({"eval_split": "none"}, r"saved, split none is empty"),
        ({"eval_split": "train"}, r"data\.split and data\.eval_split are both train"),
        ({"columns": Columns(("body",))}, r"saved, split train has no column 'body', only 'text', 'label', 'n'"),
        ({"columns": Columns(("label",))}, r"column 'label' is of type int64, expected text"),
        ({"columns": Columns(("text",), ("n",))}, r"column 'n' is of type list<.*float>, expected a label"),
    ],
)
def test_wrong_splits_and_columns(saved, options, message):
    with pytest.raises(UserError, match=message):
        open_(saved, **options)


def test_stamp_changes_with_the_content(tmp_path):
    stamps = []
    for texts in (["a"], ["b"]):
        datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "one")
        first, again = (open_(tmp_path / "one")[0].stamp for _ in range(2))
        assert first == again
        stamps.append(first)
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / "a.txt").write_text("\n".join(texts * len(stamps)))
        first, again = (open_(tmp_path / "files")[0].stamp for _ in range(2))
        assert first == again
        stamps.append(first)
    assert len(set(stamps)) == 4


def test_saved_data_set_elsewhere():
    stamps = []
    for text in ("a", "b", "a"):
        data_set = datasets.Dataset.from_dict({"text": [text]})
        data_set.save_to_disk(f"memory://saved-{len(stamps)}")
        part, _ = open_(f"memory://saved-{len(stamps)}")
        assert texts(part) == [text]
        stamps.append(part.stamp)
    fsspec.filesystem("memory").store.clear()
    assert stamps[0] == stamps[2] != stamps[1]


def test_empty_data_set(tmp_path):
    features = datasets.Features({"text": datasets.Value("string")})
    datasets.Dataset.from_dict({"text": []}, features).save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match=r"one is empty or has an empty split"):
        open_(tmp_path / "one")


def test_row_without_value(tmp_path):
    datasets.Dataset.from_dict({"text": ["a", None]}).save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match=r"one, split train, row 1: column 'text' is null"):
        texts(open_(tmp_path / "one")[0])


def test_folder_of_data_files(tmp_path):
    for name, lines in (("train", 3), ("test", 1)):
        content = "".join(f'{{"text": "{name} {n}"}}\n' for n in range(lines))
        (tmp_path / "files" / f"{name}.jsonl").parent.mkdir(exist_ok=True)
        (tmp_path / "files" / f"{name}.jsonl").write_text(content)
    train, evaluation = open_(tmp_path / "files", eval_split="test")
    assert (texts(train), texts(evaluation)) == (["train 0", "train 1", "train 2"], ["test 0"])
    with pytest.raises(UserError, match=r"cannot load data\.path=.*files, data\.split=dev \(.*train.*test"):
        open_(tmp_path / "files", "dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot load data\.path=.*empty, data\.split=train"):
        open_(tmp_path / "empty")


def test_paths_that_are_no_data_set(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match=r"a\.jsonl is a file, data\.source=hf expects a folder"):
        open_(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        open_(tmp_path / "nowhere")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").touch()
    with pytest.raises(UserError, match=r"broken cannot be loaded as a folder that save_to_disk wrote"):
        open_(tmp_path / "broken")
    with pytest.raises(UserError, match=r"memory://nowhere cannot be loaded"):
        open_("memory://nowhere")


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_hub_out_of_reach(tmp_path, environment):
    script = (
        "from jaxdp.data.reading.hub import open_dataset; from jaxdp.data.reading.records import Columns\n"
        "open_dataset('owner/name', None, None, None, Columns(('text',)), 'strict')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HOME": str(tmp_path), "no_proxy": "*", **environment},
        capture_output=True,
        text=True,
        timeout=20,  # datasets itself takes longer until it gives up
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: data.path=owner/name is no folder here, and the Hugging Face Hub cannot be reached (" in last
    assert "load_dataset('owner/name').save_to_disk(FOLDER)" in last and "data.path=FOLDER" in last


def test_fields_of_nested_columns(tmp_path):
    pairs = [{"en": "one", "fr": "un"}, {"en": "two", "fr": "deux"}]
    features = datasets.Features({"id": datasets.Value("string"), "translation": datasets.Translation(["en", "fr"])})
    rows = {"id": ["0", "1"], "translation": pairs}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "opus")
    columns = Columns(("translation.en", "translation.fr"))
    part, _ = open_dataset(str(tmp_path / "opus"), None, None, None, columns, "strict")
    assert [record.fields["translation.fr"] for record in part.read()] == ["un", "deux"]
