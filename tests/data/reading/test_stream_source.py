"""Opening what `data.source=hf_stream` names, and the sentences for what cannot be opened."""

import gc
import json
import subprocess
import sys

import pytest

from jaxdp.data.reading import hub
from jaxdp.data.reading.sources import SourceSpec
from jaxdp.data.reading.stream_source import open_stream
from jaxdp.errors import UserError

datasets = pytest.importorskip("datasets")

# pandas opens a .csv file, and `datasets` leaves it to the garbage collector to close it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    if any(path.suffix in (".csv", ".tsv") for path in tmp_path.iterdir()):
        gc.collect()


@pytest.fixture
def folder(tmp_path):
    """A folder with splits train (a, b) and test (c), as `datasets` knows them by their names."""
    for name, texts in (("train-0", "a"), ("train-1", "b"), ("test-0", "c")):
        lines = [json.dumps({"text": text, "label": 1}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def open_(path, split="train", **options):
    keys = {"columns", "name", "errors", "eval_path"} & options.keys()
    spec = SourceSpec(source="hf_stream", path=path and str(path), **{key: options.pop(key) for key in keys})
    return open_stream(spec, split, **options)


def texts(stream):
    return [record.fields["text"] for _, record in stream.records()]


def test_a_folder_has_the_splits_that_its_names_say(folder):
    assert texts(open_(folder)) == ["a", "b"]
    assert texts(open_(folder, "test")) == ["c"]
    assert texts(open_(folder, "train+test")) == ["a", "b", "c"]


def test_shards_of_several_splits_have_no_names(folder):
    records = [record for _, record in open_(folder, "train+test").records()]
    assert records[2].origin == f"data.path={folder}, split train+test, shard 2 of 3, row 0"


@pytest.mark.parametrize("path", ["train-*.jsonl", "tr*.*l"])
def test_files_by_glob(folder, path):
    assert texts(open_(folder / path)) == ["a", "b"]


def test_one_file_home_folder_and_url(folder, monkeypatch):
    assert texts(open_(folder / "test-0.jsonl")) == ["c"]
    monkeypatch.setenv("HOME", str(folder))
    assert texts(open_("~/test-0.jsonl")) == ["c"]
    assert texts(open_(f"file://{folder}/train-*.jsonl")) == ["a", "b"]


def test_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text("n\ttext\n1\ta, b\n")
    assert texts(open_(tmp_path / "a.tsv")) == ["a, b"]


def test_a_configuration_of_a_folder(folder):
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files: train-*\n- config_name: other\n  data_files: test-*\n---\n"
    )
    assert texts(open_(folder, name="other")) == ["c"]
    with pytest.raises(UserError, match=r"data\.name=third, split train \(.*main.*other.*\): correct these keys"):
        open_(folder, name="third")


@pytest.mark.parametrize(
    "path, options, message",
    [
        (None, {}, r"data\.source=hf_stream needs data\.path"),
        ("", {"errors": "replace"}, r"data\.errors='replace' is not for data\.source=hf_stream: set it to strict"),
        ("", {"eval_path": "x"}, r"data\.eval_path=x means nothing with data\.source=hf_stream"),
        ("", {"shuffle_buffer": 5}, r"data\.shuffle_buffer=5 with data\.shuffle=False: expected 0, or with"),
        ("", {"shuffle": True, "shuffle_buffer": -1}, r"data\.shuffle_buffer=-1 with data\.shuffle=True"),
        ("", {"split": "dev"}, r"split dev \(Bad split: dev\. Available splits: \['train', 'test'\]\): correct"),
        ("", {"columns": ("body",)}, r"split train has no column 'body', only 'text', 'label'"),
        ("/test-0.jsonl", {"name": "x"}, r"data\.name=x is for a dataset .* names files: unset it"),
        ("/test-0.jsonl", {"split": "test"}, r"split test \(Bad split: test\. Available splits: \['train'\]\)"),
        ("/*-0.*", {}, r"has files that end in '\.jsonl', '\.parquet': expected one of \.jsonl.* by a glob"),
        ("/*.md", {}, r"has files that end in '\.md': expected one of"),
        ("/nowhere", {}, r"/nowhere does not exist"),
        ("/*.nothing", {}, r"matches no file"),
        ("/empty", {}, r"/empty.* cannot open|cannot open data\.path=.*/empty"),
        ("/saved", {}, r"/saved was written by save_to_disk, .*: set data\.source=hf"),
    ],
)
def test_what_cannot_be_opened(folder, path, options, message):
    (folder / "train-0.parquet").write_text("x")
    (folder / "a.md").write_text("x")
    (folder / "empty").mkdir()
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text("{}")
    if "split" in options or "columns" in options:
        (folder / "train-0.parquet").unlink()
    with pytest.raises(UserError, match=message):
        open_(path if path is None else f"{folder}{path}", **options)


def test_no_record(tmp_path):
    (tmp_path / "a.csv").write_text("text\n")
    with pytest.raises(UserError, match=r"split train is empty: choose data that has records"):
        open_(tmp_path / "a.csv")


def test_a_file_that_is_broken_from_the_start(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text" "b"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2 is no JSON"):
        open_(tmp_path / "a.jsonl")


def test_zstd_needs_a_package(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    if "zstd" in fsspec.available_compressions():
        pytest.skip("it is there")
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(UserError, match=r"zstd not supported\): pip install zstandard"):
        open_(tmp_path / "a.jsonl.zst")


# ---- The Hub ----------------------------------------------------------------


OUT_OF_REACH = (
    r"^data\.path=someone/texts is no folder here, and the Hugging Face Hub cannot be reached \(.+\): "
    r"on a machine with network run `hf download someone/texts .*, copy FOLDER here and set data\.path=FOLDER.*\.$"
)


def test_hub_name_without_network_asks_once(monkeypatch):
    """The first question fails; that `datasets` would ask again for half a minute is not waited for."""
    import huggingface_hub

    asked = []

    def refuse(self, name, *, timeout):
        asked.append((name, timeout))
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(UserError, match=OUT_OF_REACH):
        open_("someone/texts")
    assert asked == [("someone/texts", hub.HUB_SECS)]


def test_hub_name_when_offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=OUT_OF_REACH):
        open_("someone/texts")


def test_what_the_hub_answers_is_told(monkeypatch):
    import huggingface_hub

    def answer(path, **_):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub.")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset_builder", answer)
    with pytest.raises(
        UserError, match=r"someone/texts, split train \(Dataset .* doesn't exist.*\): correct these keys"
    ):
        open_("someone/texts")


@pytest.mark.parametrize("path", ["texts.jsonl", "a/b/c", "./someone", "some one"])
def test_what_is_no_name_of_the_hub_is_a_missing_file(monkeypatch, path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="does not exist: give a file or folder that does"):
        open_(path)


def test_importing_does_not_import_datasets():
    script = "import sys, jaxdp.data.stream, jaxdp.data.reading.stream_source; print('datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
