"""Records of a stream from any place on, for every format that `datasets` reads as it comes."""

import collections
import gc
import gzip
import itertools
import json
import threading

import pytest

from jaxdp.data.reading.sources import SourceSpec, open_source
from jaxdp.data.reading.stream_source import open_stream
from jaxdp.errors import UserError

datasets = pytest.importorskip("datasets")

SIZES = (5, 3, 1, 7, 4)  # records of each shard
TEXTS = [[f"{shard}:{row} " + "ä" * row for row in range(size)] for shard, size in enumerate(SIZES)]
FLAT = [text for shard in TEXTS for text in shard]
FORMATS = ("jsonl", "jsonl.gz", "csv", "parquet", "txt")

# pandas opens a .csv file, and `datasets` leaves it to the garbage collector to close it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    if any(tmp_path.rglob("*.csv")):
        gc.collect()


def write_shards(folder, form="jsonl", texts=TEXTS):
    """Shards 0, 1, ... of one format; Parquet in row groups of two."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(exist_ok=True)
    for number, shard in enumerate(texts):
        path = folder / f"{number}.{form}"
        lines = [json.dumps({"text": text, "number": number}, ensure_ascii=False) + "\n" for text in shard]
        if form == "parquet":
            table = pyarrow.table({"text": shard, "number": [number] * len(shard)})
            parquet.write_table(table, path, row_group_size=2)
        elif form == "csv":
            path.write_text("number,text\n" + "".join(f"{number},{text}\n" for text in shard))
        elif form == "txt":
            path.write_text("".join(text + "\n" for text in shard))
        elif form == "jsonl.gz":
            path.write_bytes(gzip.compress("".join(lines).encode()))
        else:
            path.write_text("".join(lines))
    return str(folder)


def opened(path, columns=("text",), label_columns=(), **options):
    spec = SourceSpec(source="hf_stream", path=path, columns=columns, label_columns=label_columns)
    return open_stream(spec, **options)


def read(stream, epoch=0, place=None):
    return [record.fields["text"] for _, record in stream.records(epoch, json.loads(json.dumps(place)))]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_dotted_names_of_columns(tmp_path, form):
    """The column that is literally named so, else the field of a nested one."""
    import pyarrow
    from pyarrow import parquet

    rows, path = [{"a.b": "literal", "a": {"b": "nested", "c": "deep"}}], tmp_path / f"0.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows[0]), encoding="utf-8")
    stream = opened(str(path), columns=("a.b", "a.c"))
    assert [record.fields for _, record in stream.records()] == [{"a.b": "literal", "a.c": "deep"}]
    with pytest.raises(UserError, match=r"no column 'a\.d'"):
        opened(str(path), columns=("a.d",))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_in_the_order_of_the_names(tmp_path, form):
    stream = opened(write_shards(tmp_path / "a", form))
    records = [record for _, record in stream.records()]
    assert [record.fields for record in records] == [{"text": text} for text in FLAT]
    assert [record.origin for record in records[4:7]] == [
        f"0.{form}, row 4", f"1.{form}, row 0", f"1.{form}, row 1",
    ]  # fmt: skip
    assert read(stream, epoch=3) == FLAT  # not shuffled is not shuffled in later epochs either


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_going_on_from_every_record_and_again_from_there(tmp_path, form, shuffle):
    stream = opened(write_shards(tmp_path / "a", form), seed=1, shuffle=shuffle)
    for epoch in (0, 1):
        whole = read(stream, epoch)
        assert len(whole) == len(FLAT)
        for number, (place, _) in enumerate(stream.records(epoch)):
            rest = stream.records(epoch, json.loads(json.dumps(place)))
            assert [record.fields["text"] for _, record in itertools.islice(rest, 2)] == whole[number : number + 2]
            later = next(rest, None)  # its place is one of a reader that was itself restored
            if later:
                assert read(stream, epoch, later[0]) == whole[number + 2 :]


def test_shuffled_shards_are_whole_and_all_there(tmp_path):
    path = write_shards(tmp_path / "a", texts=[[f"{shard}:{row}" for row in range(3)] for shard in range(8)])
    orders = [
        [text for text in read(opened(path, seed=seed, shuffle=True), epoch) if text.endswith(":0")]
        for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    rows = read(opened(path, seed=0, shuffle=True), 1)
    assert rows == [f"{first[0]}:{row}" for first in orders[1] for row in range(3)]


def test_several_readers_do_not_disturb_each_other(tmp_path):
    stream = opened(write_shards(tmp_path / "a"))
    one, other = stream.records(), stream.records()
    texts = [next(reader)[1].fields["text"] for reader in (one, one, other, one, other)]
    assert texts == [FLAT[0], FLAT[1], FLAT[0], FLAT[2], FLAT[1]]
    results = {}
    threads = [
        threading.Thread(target=lambda epoch=epoch: results.update({epoch: read(stream, epoch)})) for epoch in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), FLAT)


def test_a_shuffle_buffer_says_that_it_is_inexact(tmp_path):
    path = write_shards(tmp_path / "a")
    plain, buffered = opened(path, shuffle=True), opened(path, shuffle=True, shuffle_buffer=6)
    assert (plain.exact, plain.inexact_reason, buffered.exact) == (True, "", False)
    assert "resume inexact" in buffered.inexact_reason
    assert "data.shuffle_buffer=6" in buffered.inexact_reason
    assert plain.describe() != buffered.describe()


def test_a_shuffle_buffer_shuffles_records_and_epochs_differ(tmp_path):
    stream = opened(write_shards(tmp_path / "a"), seed=1, shuffle=True, shuffle_buffer=6)
    epochs = [read(stream, epoch) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert all(sorted(epoch) == sorted(FLAT) for epoch in epochs)
    shards = [text.partition(":")[0] for text in epochs[0]]
    assert sum(a != b for a, b in itertools.pairwise(shards)) > len(SIZES)


def test_going_on_with_a_shuffle_buffer_is_the_same_each_time_but_not_exact(tmp_path):
    """What is measured here is what `inexact_reason` says; a `datasets` that is exact fails it."""
    path = write_shards(tmp_path / "a", texts=[[f"{shard}:{row}" for row in range(50)] for shard in range(4)])
    stream = opened(path, shuffle=True, shuffle_buffer=20)
    whole = read(stream)
    place = next(itertools.islice(stream.records(), 100, None))[0]
    rest = read(stream, 0, place)
    assert rest == read(stream, 0, place)
    seen = collections.Counter(whole[:100] + rest)
    assert set(seen) <= set(whole) and set(whole) - set(seen)


def test_text_comes_as_it_stands_in_the_file(tmp_path):
    texts = [["NA", "null", "", "1", "nan"], ["x", "7"]]
    for form in FORMATS:
        assert read(opened(write_shards(tmp_path / form, form, texts))) == [*texts[0], *texts[1]]


def break_line(path, number, line):
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = line
    path.write_text("".join(lines))


def read_until_it_breaks(stream):
    seen = []
    with pytest.raises(UserError) as error:
        seen.extend(record.fields["text"] for _, record in stream.records())
    return str(error.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"text": "a", \n', r"/a/3\.jsonl, line 5 is no JSON .*correct or leave out this line"),
        ('{"text": 7}\n', r"/a/3\.jsonl, line 5: column 'text' is a number, expected text"),
        ('{"number": 7}\n', r"3\.jsonl, row 4: column 'text' is null, expected text"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = write_shards(tmp_path / "a")
    break_line(tmp_path / "a" / "3.jsonl", 5, line)
    stream = opened(path)
    with pytest.raises(UserError, match=message):
        read(stream)


def test_a_broken_row_of_a_table_is_named(tmp_path):
    path = write_shards(tmp_path / "a", "csv")
    break_line(tmp_path / "a" / "3.csv", 4, 'a,"b\n')
    with pytest.raises(UserError, match=r"/a/3\.csv, line 4: the row that begins here cannot be read"):
        read(opened(path))


def test_a_damaged_file_is_named(tmp_path):
    path = write_shards(tmp_path / "a", "parquet")
    (tmp_path / "a" / "3.parquet").write_bytes((tmp_path / "a" / "0.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"/a/3\.parquet is no Parquet file, or a damaged one"):
        read(opened(path))
    gz = write_shards(tmp_path / "b", "jsonl.gz")
    (tmp_path / "b" / "3.jsonl.gz").write_bytes((tmp_path / "b" / "3.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"/b/3\.jsonl\.gz was cut short"):
        read(opened(gz))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = write_shards(tmp_path / "a", "txt")
    (tmp_path / "a" / "3.txt").write_bytes(b"good\nb\xffad\n")
    with pytest.raises(UserError, match=r"/a/3\.txt is not UTF-8 text: byte 0xff at offset 6"):
        read(opened(path))


def test_what_only_datasets_finds_broken_is_told_in_its_words(tmp_path):
    """A column whose kind changes: every line is good for a reader of lines."""
    path = write_shards(tmp_path / "a")
    (tmp_path / "a" / "3.jsonl").write_text('{"text": "a", "number": {"x": [1]}}\n')
    with pytest.raises(UserError, match=r"/a/3\.jsonl cannot be read behind its first 0 rows \(\w+: .+\): fix or"):
        read(opened(path))


def test_labels(tmp_path):
    stream = opened(write_shards(tmp_path / "a"), label_columns=("number",))
    assert next(stream.records())[1].fields == {"text": FLAT[0], "number": 0}
    with pytest.raises(UserError, match=r"0\.jsonl, row 0: column 'number' is a number, expected text"):
        opened(write_shards(tmp_path / "a"), columns=("text", "number"))


def test_labels_have_the_names_of_their_classes(tmp_path):
    kind = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "one": kind, "several": [kind]})
    rows = {"text": ["a", "b", "c"], "one": [1, 0, -1], "several": [[], [1, 0], [1]]}
    (tmp_path / "a").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a" / "0.parquet")
    records = opened(str(tmp_path / "a"), label_columns=("one", "several")).records()
    assert [next(records)[1].fields for _ in range(2)] == [
        {"text": "a", "one": "pos", "several": []}, {"text": "b", "one": "neg", "several": ["pos", "neg"]},
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"0\.parquet, row 2: column 'one' is -1, which is no label"):
        next(records)


def test_fingerprint_is_of_names_and_sizes_not_of_the_place(tmp_path):
    first = opened(write_shards(tmp_path / "a")).fingerprint
    assert len(first) == 64
    assert opened(write_shards(tmp_path / "b")).fingerprint == first
    assert opened(str(tmp_path / "b" / "*.jsonl")).fingerprint == first
    assert opened(write_shards(tmp_path / "b"), label_columns=("number",)).fingerprint != first
    with (tmp_path / "b" / "4.jsonl").open("a") as file:
        file.write("\n")
    assert opened(str(tmp_path / "b")).fingerprint != first
    (tmp_path / "a" / "4.jsonl").rename(tmp_path / "a" / "5.jsonl")
    assert opened(str(tmp_path / "a")).fingerprint != first


def test_brackets_in_the_names_of_files_and_folders(tmp_path):
    folder = tmp_path / "d[1]"
    folder.mkdir()
    (folder / "a[2].csv").write_text("text\nabc\n")
    for path in (folder / "a[2].csv", folder / "*.csv"):
        records = list(open_stream(SourceSpec(source="hf_stream", path=str(path))).records())
        assert [(record.fields["text"], record.origin) for _, record in records] == [("abc", "a[2].csv, row 0")]
    for source, opening in (("hf_stream", open_stream), ("hf", open_source)):
        with pytest.raises(UserError, match=r"is a folder with one of \*\?\[ in its name"):
            opening(SourceSpec(source=source, path=str(folder)))
