"""Batches of a stream against the same data read by row number, and going on after every batch."""

import dataclasses
import itertools
import json
import traceback

import numpy as np
import pytest

from jaxdp.data.pipeline import train_batches
from jaxdp.data.prefetch import Prefetch
from jaxdp.data.reading.sources import SourceSpec
from jaxdp.data.reading.stream_source import open_stream
from jaxdp.data.samplers.epochs import EpochSampler
from jaxdp.data.samplers.shards import PARTITIONS
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.data.stream import StreamBatches, head_tokens
from jaxdp.errors import UserError

datasets = pytest.importorskip("datasets")

END = 256  # of text, for bytes
LENGTH, BATCH, SEED = 6, 4, 5
LENGTHS = ((5, 0, 17, 3), (1,), (), (2, 6, 40, 0, 0, 9), (7, 3, 2))  # of the texts of each shard


def text(shard, row, length):
    return "".join(chr(97 + (shard * 7 + row * 3 + i) % 26) for i in range(length))


TEXTS = [[text(shard, row, length) for row, length in enumerate(lengths)] for shard, lengths in enumerate(LENGTHS)]
# An end of text between two; the first token is no target.
NUM_ROWS = (sum(map(sum, LENGTHS)) + sum(map(len, LENGTHS)) - 2) // LENGTH
TWO_EPOCHS = -(-2 * NUM_ROWS // BATCH)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    """Five shards, one of them empty; texts of no token, and of many rows."""
    for number, texts in enumerate(TEXTS):
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (tmp_path / f"{number}.jsonl").write_text("".join(lines))
    return tmp_path


def encode(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def prepare(fields):
    return {"tokens": encode(fields["text"])}


def make_batch(examples, seed, step, row_ids):
    """Shows where seed, step and row are wrong, as a task with randomness would."""
    draws = [np.random.default_rng([seed, step, row]).random() for row in row_ids]
    return {**examples, "draws": np.array(draws)}


def joined(texts):
    """Documents with end of text between two: the reference."""
    parts = [part for text in texts for part in (encode(text), np.array([END], np.int32))]
    return np.concatenate(parts[:-1])


def stream_of(folder, *, seed=SEED, **options):
    return open_stream(SourceSpec(source="hf_stream", path=str(folder)), seed=seed, **options)


def batches_of(stream, **options):
    options = {"length": LENGTH, "global_batch_size": BATCH, "prepare": prepare} | options
    return StreamBatches(stream=stream, eos_id=END, make_batch=make_batch, **options)


def plain(item):
    """A batch and its state as JSON values, for comparing."""
    batch, state = item
    arrays = {name: (str(array.dtype), array.tolist()) for name, array in batch.items()}
    return json.loads(json.dumps([arrays, state]))


def first(batches, count):
    return [plain(item) for item in itertools.islice(batches, count)]


# ---- Rows -------------------------------------------------------------------


def by_row_number(tokens, num_steps):
    source = TokenWindows(tokens, LENGTH, keep_tail=False)
    order = EpochSampler(num_rows=source.num_rows, global_batch_size=BATCH, seed=SEED, shuffle=False)
    batches = train_batches(
        source, make_batch, order, partition="block", num_processes=1, process_index=0, start_step=0
    )
    return [plain((batch, None))[0] for batch in itertools.islice(batches, num_steps)]


def test_batches_are_those_of_the_same_data_by_row_number(folder):
    tokens = joined(itertools.chain(*TEXTS))
    assert TokenWindows(tokens, LENGTH, keep_tail=False).num_rows == NUM_ROWS
    assert NUM_ROWS % BATCH  # so that a batch reaches over the end of an epoch
    found = [batch for batch, _ in first(batches_of(stream_of(folder)), 3 * TWO_EPOCHS)]
    assert found == by_row_number(tokens, 3 * TWO_EPOCHS)


@pytest.mark.parametrize("extra", range(LENGTH))
def test_the_last_row_of_an_epoch(tmp_path, extra):
    """The end of text behind the last document is no target: it is not in the corpus either."""
    (tmp_path / "a.txt").write_text("abcdefg\n" + "x" * (LENGTH + extra))
    tokens = joined(["abcdefg", "x" * (LENGTH + extra)])
    assert [batch for batch, _ in first(batches_of(stream_of(tmp_path)), 4)] == by_row_number(tokens, 4)


def test_shuffled_epochs_are_those_of_their_shards(folder):
    stream = stream_of(folder, shuffle=True)
    batches = first(batches_of(stream), 2 * TWO_EPOCHS)
    rows = np.concatenate([batch["tokens"][1] for batch, _ in batches])
    starts = [0]
    for epoch in range(3):
        texts = [record.fields["text"] for _, record in stream.records(epoch)]
        assert sorted(texts) == sorted(itertools.chain(*TEXTS))
        windows = TokenWindows(joined(texts), LENGTH, keep_tail=False)
        starts.append(starts[-1] + windows.num_rows)
        expected = windows.rows(np.arange(windows.num_rows))["tokens"]
        np.testing.assert_array_equal(rows[starts[-2] : starts[-1]], expected)


def test_records_that_preparing_leaves_out(folder):
    def without_short(fields):
        return prepare(fields) if len(fields["text"]) > 5 else None

    tokens = joined(text for text in itertools.chain(*TEXTS) if len(text) > 5)
    batches = batches_of(stream_of(folder), prepare=without_short)
    whole = first(batches, TWO_EPOCHS)
    assert [batch for batch, _ in whole] == by_row_number(tokens, TWO_EPOCHS)
    for number, (_, state) in enumerate(whole):
        assert first(dataclasses.replace(batches, state=state), TWO_EPOCHS - number - 1) == whole[number + 1 :]


# ---- Going on ---------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("length", [1, LENGTH, 25])
def test_going_on_after_every_batch_of_two_epochs(folder, shuffle, length):
    stream = stream_of(folder, shuffle=shuffle)
    batches = batches_of(stream, length=length)
    num_steps = next(step for step, (_, state) in enumerate(batches) if state["position"]["epoch"] == 2)
    whole = first(batches, num_steps)
    for step in range(1, num_steps):
        state = json.loads(json.dumps(whole[step - 1][1]))
        assert state["step"] == step
        assert first(dataclasses.replace(batches, state=state), num_steps - step) == whole[step:]


@pytest.mark.parametrize("shuffle", [False, True])
def test_going_on_after_every_batch_with_a_worker_that_reads_ahead(folder, shuffle):
    """Stop after each batch, go on from its state for one, stop again: no batch is lost or read twice."""
    whole = first(batches_of(stream_of(folder, shuffle=shuffle)), TWO_EPOCHS)
    state, taken = None, []
    while len(taken) < TWO_EPOCHS:
        batches = batches_of(stream_of(folder, shuffle=shuffle), state=state)
        with Prefetch(batches, lambda item: (plain(item)[0], item[1]), depth=3) as ahead:
            assert batches.first_state["step"] == len(taken)
            for _ in range(1 + len(taken) % 2):
                batch, state = next(ahead)
                taken.append(batch)
                assert state["step"] == len(taken)
        state = json.loads(json.dumps(state))
    assert taken[:TWO_EPOCHS] == [batch for batch, _ in whole]


def test_the_state_before_the_first_batch(folder):
    stream = stream_of(folder)
    start = batches_of(stream)
    assert start.first_state["step"] == 0
    assert first(batches_of(stream, state=json.loads(json.dumps(start.first_state))), 3) == first(start, 3)


def test_state_is_small_whatever_the_length_of_a_document(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100_000)
    [(_, state)] = itertools.islice(batches_of(stream_of(tmp_path)), 10, 11)
    assert len(json.dumps(state)) < 1000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 7}, "length: 6 in the checkpoint, 7 now"),
        ({"global_batch_size": 8}, "global_batch_size: 4 in the checkpoint, 8 now"),
        ({"seed": 6}, "seed: 5 in the checkpoint, 6 now"),
        ({"shuffle": True}, "shuffle: False in the checkpoint, True now"),
        ({"shuffle": True, "shuffle_buffer": 3}, "exact: True in the checkpoint, False now"),
        ({"file": "x"}, "fingerprint: .* in the checkpoint, .* now"),
    ],
)
def test_a_state_of_other_data_is_refused(folder, change, message):
    [(_, state)] = itertools.islice(batches_of(stream_of(folder)), 1)
    if "file" in change:
        (folder / "9.jsonl").write_text('{"text": "more"}\n')
    of_stream = {key: change[key] for key in change.keys() & {"shuffle", "shuffle_buffer", "seed"}}
    of_batches = {key: change[key] for key in change.keys() & {"length", "global_batch_size"}}
    with pytest.raises(UserError, match=message):
        batches_of(stream_of(folder, **of_stream), state=state, **of_batches)


def test_going_on_with_a_shuffle_buffer_is_marked_and_the_same_on_all_processes(folder):
    stream = stream_of(folder, shuffle=True, shuffle_buffer=4)
    whole = first(batches_of(stream), TWO_EPOCHS)
    assert {state["exact"] for _, state in whole} == {False}
    begins = []
    for _, state in whole:
        [(batch, after)] = first(batches_of(stream, state=state), 1)
        if after["position"]["epoch"] == state["position"]["epoch"]:
            begins.append(batch["tokens"][1][0][0])
    assert len(begins) > 4 and set(begins) == {END}  # not inside a document that another one stood in for
    state = whole[2][1]
    alone = first(batches_of(stream, state=state), TWO_EPOCHS)
    assert alone[0][1]["step"] == 4
    assert alone[:3] != whole[3:6]
    shares = [
        first(batches_of(stream, state=state, num_processes=2, process_index=index), TWO_EPOCHS) for index in range(2)
    ]
    for (batch, _), *parts in zip(alone, *shares, strict=True):
        assert batch["tokens"][1] == parts[0][0]["tokens"][1] + parts[1][0]["tokens"][1]


# ---- Processes --------------------------------------------------------------


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_share_batches_that_do_not_depend_on_their_number(folder, partition, num_processes):
    stream = stream_of(folder, shuffle=True)
    whole = first(batches_of(stream), TWO_EPOCHS)
    options = {"partition": partition, "num_processes": num_processes}
    shares = [first(batches_of(stream, process_index=index, **options), TWO_EPOCHS) for index in range(num_processes)]
    for (batch, state), *parts in zip(whole, *shares, strict=True):
        assert all(part[1] == state for part in parts)
        row_ids = np.concatenate([part[0]["row_ids"][1] for part in parts])
        assert sorted(row_ids) == list(range(BATCH))
        for name, (_, values) in batch.items():
            found = np.concatenate([part[0][name][1] for part in parts])[np.argsort(row_ids)]
            np.testing.assert_array_equal(found, values)


def test_one_process_goes_on_where_two_stopped(folder):
    stream = stream_of(folder)
    two = batches_of(stream, num_processes=2, process_index=1)
    state = first(two, 3)[-1][1]
    assert first(batches_of(stream, state=state), 4) == first(batches_of(stream), 7)[3:]


# ---- Errors -----------------------------------------------------------------


def test_a_broken_record_reaches_the_consumer_after_the_batches_before_it(folder):
    expected = [batch for batch, _ in first(batches_of(stream_of(folder)), 3)]
    lines = (folder / "3.jsonl").read_text().splitlines()
    (folder / "3.jsonl").write_text("\n".join([*lines[:2], '{"text": ', *lines[3:]]))
    stream = stream_of(folder)
    with Prefetch(batches_of(stream, global_batch_size=1), plain, depth=2) as ahead:
        taken = []
        with pytest.raises(UserError) as error:
            taken.extend(batch["tokens"][1][0] for batch, _ in ahead)
    before = TokenWindows(joined([*TEXTS[0], *TEXTS[1]]), LENGTH, keep_tail=False).num_rows
    assert before and taken == [row for batch in expected for row in batch["tokens"][1]][:before]
    message = str(error.value)
    assert message.startswith(f"{folder}/3.jsonl, line 3 is no JSON") and "\n" not in message
    trace = "".join(traceback.format_exception(error.value))
    assert "record_stream.py" in trace and "pyarrow" in trace  # ours, and its cause inside `datasets`


def test_what_preparing_refuses_is_named(folder):
    def refuse(fields):
        if len(fields["text"]) == 40:
            raise UserError("Character 'x' is not among them.")
        return prepare(fields)

    with pytest.raises(UserError, match=r"^3\.jsonl, row 2: Character 'x'"):
        first(batches_of(stream_of(folder), prepare=refuse), TWO_EPOCHS)


def test_a_bug_in_preparing_stays_one(folder):
    with pytest.raises(ZeroDivisionError):
        first(batches_of(stream_of(folder), prepare=lambda fields: {"tokens": [1 // 0]}), 1)


def test_too_few_tokens_for_a_row(tmp_path):
    (tmp_path / "a.txt").write_text("abc\nde\n")
    stream = stream_of(tmp_path)
    assert len(first(batches_of(stream, length=5), 3)) == 3
    with pytest.raises(UserError, match=r"too few tokens for one sequence, which takes 7: .*data\.length"):
        first(batches_of(stream, length=6), 1)
    with pytest.raises(UserError, match=r"data\.length=0 is too short"):
        batches_of(stream, length=0)


def test_batches_are_made_when_they_are_asked_for(folder):
    seen = []

    def count(fields):
        seen.append(fields["text"])
        return prepare(fields)

    batches = iter(batches_of(stream_of(folder), prepare=count, global_batch_size=1))
    assert seen == []
    next(batches)
    assert seen == TEXTS[0][:3]  # five bytes, an end, and the next text


@pytest.mark.parametrize("num_tokens", [0, 1, 5, 6, 40, 10**6])
def test_first_tokens(folder, num_tokens):
    found = head_tokens(stream_of(folder), prepare, END, num_tokens)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, joined(itertools.chain(*TEXTS))[:num_tokens])
