"""From `config.data` to batches: every source, prepared once, the same from any step and for any processes."""

import itertools
import json
import sysconfig

import numpy as np
import pytest
from tiny_runs import load, read_data

from jaxdp.data import source_entries as sources
from jaxdp.data import tokenization as tokenizing
from jaxdp.data.loader import make_sampler, source_shares
from jaxdp.data.pipeline import train_batches
from jaxdp.data.source_entries import source_entries
from jaxdp.errors import UserError
from jaxdp.tasks.make import dataset_spec, make_task

WORDS = ["the", "of", "and", "that", "his", "with", "for", "had", "you", "not", "her", "from", "which", "have"]


def text(number, num_words):
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(num_words))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The same twenty documents as files of every kind."""
    import datasets

    root = tmp_path_factory.mktemp("corpora")
    texts = [text(number, 5 + number % 9) for number in range(20)]
    (root / "text").mkdir()
    for number, content in enumerate(texts):
        (root / "text" / f"{number:02}.txt").write_text(content)
    (root / "lines.jsonl").write_text("".join(json.dumps({"body": content}) + "\n" for content in texts))
    (root / "table.csv").write_text("n,body\n" + "".join(f'{n},"{content}"\n' for n, content in enumerate(texts)))
    dataset = datasets.Dataset.from_dict({"body": texts})
    dataset.to_parquet(str(root / "table.parquet"))
    dataset.save_to_disk(str(root / "saved"))
    np.arange(1000, dtype=np.uint16).tofile(root / "tokens.bin")
    return root


COLUMN = ("data.text_column=body",)
SOURCES = {
    "stdlib": (),
    "text": ("data.path={root}/text",),
    "jsonl": ("data.path={root}/lines.jsonl", *COLUMN),
    "csv": ("data.path={root}/table.csv", *COLUMN),
    "parquet": ("data.path={root}/table.parquet", *COLUMN),
    "hf": ("data.path={root}/saved", *COLUMN),
    "tokens": ("data.path={root}/tokens.bin", "model.vocab_size=1000"),
}
MIXTURE = (
    "data.mixture=({{'source':'text','path':'{root}/text','weight':2.0}},"
    "{{'source':'jsonl','path':'{root}/lines.jsonl','text_column':'body','weight':1.0}})"
)


def config_of(config_file, corpora, *overrides):
    return load(config_file, *(override.format(root=corpora) for override in overrides))


def batches_of(config, data, start_step=0, num_processes=1, process_index=0):
    return train_batches(
        data.train,
        make_task(config, data.vocabularies).make_batch,
        make_sampler(dataset_spec(config), data),
        partition=config.data.partition,
        num_processes=num_processes,
        process_index=process_index,
        start_step=start_step,
    )


def take(config, data, num_steps, **where):
    return list(itertools.islice(batches_of(config, data, **where), num_steps))


def assert_same(batch, expected):
    assert batch.keys() == expected.keys()
    for name, array in batch.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


@pytest.fixture(params=[*SOURCES, "mixture", "documents", "bpe", "unshuffled"])
def kind(request, config_file, corpora):
    """(configuration, data) of every source, and of the ways to make rows of one."""
    overrides = {
        "mixture": (MIXTURE,),
        "documents": ("data.source=text", *SOURCES["text"], "data.packing=documents", "data.length=128"),
        "bpe": ("data.source=text", *SOURCES["text"], "data.tokenizer=bpe:300"),
        "unshuffled": ("data.source=text", *SOURCES["text"], "data.shuffle=False"),
    }.get(request.param) or (f"data.source={request.param}", *SOURCES[request.param])
    small = ("global_batch_size=4", "data.length=16") if request.param != "documents" else ("global_batch_size=4",)
    config = config_of(config_file, corpora, *overrides, *small)
    return config, read_data(config)


def test_every_position_of_two_epochs_can_be_resumed(kind):
    config, data = kind
    steps = min(-(-2 * data.train.num_rows // 4), 30)
    whole = take(config, data, steps)
    for start in range(steps):
        [batch] = take(config, data, 1, start_step=start)
        assert_same(batch, whole[start])
    assert_same(take(config, data, 2, start_step=steps - 2)[1], whole[-1])


@pytest.mark.parametrize("partition", ["block", "strided", "random"])
def test_two_processes_read_what_one_reads(config_file, corpora, partition):
    config = config_of(config_file, corpora, MIXTURE, f"data.partition={partition}", "global_batch_size=8")
    data = read_data(config)
    shares = [take(config, data, 20, num_processes=2, process_index=index) for index in (0, 1)]
    for whole, *parts in zip(take(config, data, 20), *shares, strict=True):
        row_ids = np.concatenate([part["row_ids"] for part in parts])
        assert sorted(row_ids.tolist()) == list(range(8))
        by_row = np.argsort(row_ids)
        one = np.argsort(whole["row_ids"])
        for name in whole:
            both = np.concatenate([part[name] for part in parts])[by_row]
            np.testing.assert_array_equal(both, whole[name][one])


def test_every_kind_of_file_gives_the_same_tokens(config_file, corpora):
    tokens = {}
    for source in ("text", "jsonl", "csv", "parquet", "hf"):
        data = read_data(config_of(config_file, corpora, f"data.source={source}", *SOURCES[source]))
        rows = data.train.rows(np.arange(data.train.num_rows))["tokens"]
        tokens[source] = [rows, data.evaluation.rows(np.arange(data.evaluation.num_rows))["tokens"]]
    for source, (train, evaluation) in tokens.items():
        np.testing.assert_array_equal(train, tokens["jsonl"][0], err_msg=source)
        np.testing.assert_array_equal(evaluation, tokens["jsonl"][1], err_msg=source)


def test_labels_of_a_data_set_of_hugging_face_have_their_names(config_file, tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    rows = {"text": [text(n, 4) for n in range(20)], "label": [n % 2 for n in range(20)]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    saved = ("data.source=hf", f"data.path={tmp_path}/saved", f"data.cache_dir={tmp_path}/cache", "data.length=64")
    data = read_data(load(config_file, "task=classification", *saved))
    assert data.vocabularies.labels.names == ("neg", "pos")
    assert data.train.rows(np.arange(4))["label"].tolist() == [1, 0, 1, 0]


PAIR_TASKS = {"seq2seq": ("task=seq2seq",), "completion": ("causal_lm.completion_only=True",)}


@pytest.fixture
def pairs(tmp_path):
    """The same pairs as two files and as one of JSON lines."""
    sides = {"source": [text(n, 3 + n % 2) for n in range(30)], "target": [text(n + 5, 2 + n % 3) for n in range(30)]}
    for name, texts in sides.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in texts))
    records = [dict(zip(sides, pair, strict=True)) for pair in zip(*sides.values(), strict=True)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


PARALLEL = ("data.source=text", "data.path={root}/source", "data.target_path={root}/target", "data.length=64")


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_two_files_give_the_rows_of_one_with_both_columns(config_file, pairs, task):
    jsonl = ("data.source=jsonl", "data.path={root}/lines.jsonl", "data.length=64")
    both = [read_data(config_of(config_file, pairs, *PAIR_TASKS[task], *source)) for source in (PARALLEL, jsonl)]
    for split in ("train", "evaluation"):
        assert_same(*(getattr(data, split).rows(np.arange(getattr(data, split).num_rows)) for data in both))
    assert both[0].summary[0].startswith("source + target: 1 pair of files, ")
    assert both[0].train.num_rows + both[0].evaluation.num_rows == 30


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_change_on_either_side_is_other_data(config_file, pairs, tmp_path, side):
    config = config_of(config_file, pairs, *PAIR_TASKS["seq2seq"], *PARALLEL)
    first = read_data(config)
    assert read_data(config).fingerprint == first.fingerprint
    path = pairs / side
    path.write_text(path.read_text().replace("the", "eht"))
    assert read_data(config).fingerprint != first.fingerprint


def test_held_out_pairs_and_pairs_in_a_mixture(config_file, pairs):
    for name in ("source", "target"):
        (pairs / f"dev.{name}").write_text("a\nb\n")
    held_out = ("data.eval_path={root}/dev.source", "data.eval_target_path={root}/dev.target")
    data = read_data(config_of(config_file, pairs, *PAIR_TASKS["seq2seq"], *PARALLEL, *held_out))
    assert (data.train.num_rows, data.evaluation.num_rows) == (30, 2)
    mixture = (
        "data.mixture=({{'source':'text','path':'{root}/source','target_path':'{root}/target'}},"
        "{{'source':'jsonl','path':'{root}/lines.jsonl'}})"
    )
    data = read_data(config_of(config_file, pairs, *PAIR_TASKS["seq2seq"], mixture, "data.length=64"))
    assert [group.name for group in data.groups] == ["source + target", "lines.jsonl"]


def test_it_is_tokenized_once(config_file, corpora, tmp_path, monkeypatch):
    config = config_of(config_file, corpora, "data.source=text", *SOURCES["text"], f"data.cache_dir={tmp_path}")
    first = read_data(config)
    monkeypatch.setattr(tokenizing, "prepare_examples", lambda *_, **__: pytest.fail("tokenized again"))
    monkeypatch.setattr(sources, "scan_parts", lambda *_, **__: pytest.fail("read again"))
    again = read_data(config)
    assert again.fingerprint == first.fingerprint
    assert_same(*(data.train.rows(np.arange(3)) for data in (first, again)))


@pytest.mark.parametrize(
    "change", ["data.tokenizer=char", "data.cleaning=('lowercase',)", "data.eval_fraction=0.3", "data.errors=replace"]
)
def test_other_data_is_another_entry(config_file, corpora, tmp_path, change):
    text_source = ("data.source=text", *SOURCES["text"], f"data.cache_dir={tmp_path}")
    read_data(config_of(config_file, corpora, *text_source))
    entries = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    read_data(config_of(config_file, corpora, *text_source, change))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} > entries


def test_a_changed_file_is_read_again(config_file, corpora, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(text(1, 300))
    config = load(config_file, f"data.path={path}")
    first = read_data(config)
    path.write_text(text(2, 300))
    assert read_data(config).fingerprint != first.fingerprint


def test_the_larger_vocabulary_wins(config_file):
    data = read_data(load(config_file, "model.vocab_size=300"))
    assert data.vocab_size == 300 and data.vocabularies.tokenizer.vocab_size == 257
    with pytest.raises(UserError, match=r"model.vocab_size=200 is smaller than the tokenizer's vocabulary of 257"):
        read_data(load(config_file, "model.vocab_size=200"))


def test_one_text_is_cut_at_a_character(config_file):
    data = read_data(load(config_file))
    size = (config_file.parent / "text.txt").stat().st_size
    held_out = size - int(size * 0.9)
    assert data.train.num_rows == (size - held_out - 1) // 16
    assert data.evaluation.num_rows == -(-(held_out - 1) // 16)
    [line] = data.summary
    assert line.startswith("text.txt: 1 file, ") and line.endswith("bytes of 257 tokens")


def test_ready_tokens(config_file, tmp_path):
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    config = load(config_file, "data.source=tokens", f"data.path={tmp_path / 'tokens.bin'}", "model.vocab_size=500")
    data = read_data(config)
    assert data.vocabularies.tokenizer is None and data.vocab_size == 500
    assert data.train.rows(np.array([1]))["tokens"].tolist() == [list(range(16, 33))]
    assert data.summary == ("tokens: 450 for training, 50 for validation (1000 B)",)


def test_packed_documents_do_not_see_each_other(config_file, corpora):
    config = config_of(
        config_file, corpora, "data.source=jsonl", *SOURCES["jsonl"], "data.packing=documents", "data.length=128"
    )
    data = read_data(config)
    batch = next(batches_of(config, data))
    segments, positions = batch["segment_ids"], batch["positions"]
    starts = np.diff(segments, axis=1, prepend=0) > 0
    assert (positions[starts] == 0).all() and starts.sum() > len(segments)
    assert (batch["tokens"][starts] == data.vocabularies.tokenizer.eos_id).all()
    assert (batch["loss_weights"] == (segments > 0)).all()


@pytest.mark.parametrize("packing", ["none", "documents"])
def test_a_long_source_is_cut_from_its_left_and_keeps_its_target(config_file, tmp_path, packing):
    pairs = [("a" * n, "xyz"[: 1 + n % 3] * (20 if n % 10 == 9 else 1)) for n in range(80)]
    lines = [json.dumps({"source": source, "target": target}) for source, target in pairs]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines) + "\n")
    config = load(
        config_file, "causal_lm.completion_only=True", "data.source=jsonl", f"data.path={tmp_path}/lines.jsonl",
        f"data.packing={packing}", "data.length=16", "data.long_documents=cut", "causal_lm.separator=:",
        f"data.cache_dir={tmp_path}/cache",
    )  # fmt: skip
    data = read_data(config)
    tokenizer, task = data.vocabularies.tokenizer, make_task(config, data.vocabularies)
    learned, read = [], []
    for rows in (data.train, data.evaluation):
        indices = np.arange(rows.num_rows)
        batch = task.make_batch(rows.rows(indices), 0, 0, indices)
        segments = batch.get("segment_ids", np.ones_like(batch["tokens"]))
        assert (batch["loss_weights"].sum(axis=1) > 0).all()
        for row in range(len(segments)):
            for segment in range(1, segments[row].max() + 1):
                here = segments[row] == segment
                is_learned = here & (batch["loss_weights"][row] > 0)
                learned.append(tokenizer.decode(batch["targets"][row][is_learned]))
                read.append(tokenizer.decode(batch["tokens"][row][here]))
    expected = [target if len(target) < 16 else target[:16] for _, target in pairs]
    assert sorted(learned) == sorted(expected)
    # As much of the source as there is room for, the part next to the target.
    assert max(text.count("a") for text in read) == 14 and all(":" in text for text in read)


@pytest.mark.parametrize(
    ("overrides", "train", "held_out"),
    [
        (("task=classification", "data.long_documents=cut"), " (2 of 90 cut, longer than 20 tokens)", " (1 of 10 cut, longer than 20 tokens)"),
        (("task=seq2seq", "data.long_documents=drop"), " (2 of 90 dropped, longer than 20 tokens)", " (1 of 10 dropped, longer than 20 tokens)"),
        (("task=seq2seq", "data.long_documents=drop", "data.packing=documents"), " (2 of 90 dropped, longer", " (1 of 10 dropped, longer"),
        (("task=seq2seq", "data.long_documents=cut", "data.packing=documents", "data.target_length=30"),
            " (2 of 90 cut, longer than 20 tokens or a target of 30)", " (1 of 10 cut, "),
        (("data.packing=documents", "data.long_documents=drop"), " (2 of 90 dropped, longer than 20 tokens)", " (1 of 10 dropped, "),
        (("data.packing=none", "data.length=90"), "", ""),
    ],
)  # fmt: skip
def test_examples_longer_than_a_row_are_counted_and_said(config_file, tmp_path, overrides, train, held_out):
    records = [{"text": "a" * (80 if n in (3, 30, 95) else 9 + n % 2), "label": n % 2} for n in range(100)]
    lines = [json.dumps(record | {"source": record["text"], "target": "t"}) for record in records]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:90]) + "\n")
    (tmp_path / "eval.jsonl").write_text("\n".join(lines[90:]) + "\n")
    paths = (
        f"data.path={tmp_path}/train.jsonl",
        f"data.eval_path={tmp_path}/eval.jsonl",
        f"data.cache_dir={tmp_path}/cache",
    )
    data = read_data(load(config_file, "data.source=jsonl", *paths, "data.length=20", *overrides))
    assert f" tokens for training{train}" in data.summary[0] and f" for validation{held_out}" in data.summary[0]
    assert data.summary[0].count("(") == bool(train) + bool(held_out)
    if "task=seq2seq" in overrides:  # scored are all, as they can be read
        assert len(data.pairs.sources) == 10 and max(map(len, data.pairs.sources)) == 20
        assert data.summary[1] == "1 of 10 validation sources for scoring cut, longer than 20 tokens"
    else:
        assert not any("scored" in line for line in data.summary)


def test_shares_of_a_mixture_are_those_asked_for(config_file, corpora):
    config = config_of(config_file, corpora, MIXTURE, "global_batch_size=10")
    data = read_data(config)
    order = make_sampler(dataset_spec(config), data)
    shares = source_shares(order, data, 0, 300)  # three blocks of 1000 rows
    assert shares == {"data/share/text": pytest.approx(0.667), "data/share/lines.jsonl": pytest.approx(0.333)}
    drawn = np.concatenate([order.rows(step, np.arange(10)) for step in range(300)])
    assert (drawn < data.groups[0].num_rows).mean() == pytest.approx(0.667)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.mixture=('text',)",), r"data.mixture\[0\] is 'text': expected a dict"),
        (("data.mixture=({'path':'a'},)",), r"data.mixture\[0\] has no 'source'"),
        (("data.mixture=({'source':'text','wieght':1},)",), r"unknown key 'wieght'; did you mean 'weight'"),
        (("data.mixture=({'source':'text','weight':-1},)",), r"weight -1: expected a number above 0"),
        (
            ("data.mixture=({'source':'text','path':'a'},)", "data.target_path=b"),
            r"data.target_path=b .* entries of data.mixture",
        ),
        (("data.mixture=({'source':'tokens','path':'a'},)",), r"'tokens', which cannot be mixed"),
    ],
)
def test_mixtures_that_mean_nothing(config_file, overrides, message):
    with pytest.raises(UserError, match=message):
        source_entries(load(config_file, *overrides).data)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.packing=sideways",), "data.packing='sideways' is unknown; choose one of: cut, documents, none"),
        (("task=classification", "data.packing=cut"), "does not serve task='classification'; choose none"),
        (
            ("data.source=jsonl", "data.path={root}/lines.jsonl"),
            r"lines.jsonl, line 1.* has no column 'text', only 'body'",
        ),
        (
            ("data.source=csv", "data.path={root}/table.csv", "data.text_column=bdy"),
            "no column 'bdy', only 'n', 'body'",
        ),
        (("data.source=text", "data.path={root}/text", "data.cleaning=('min_chars:99999',)"), "nothing"),
        (("data.source=tokens", "data.path={root}/tokens.bin", "data.packing=documents"), "choose cut"),
        (
            ("data.source=tokens", "data.path={root}/tokens.bin", "task=masked_lm", "model.vocab_size=1000"),
            "neither texts nor a tokenizer, which task='masked_lm' needs",
        ),
        (("data.source=tokens", "data.path={root}/tokens.bin", "task=classification"), "neither texts nor a tokenizer"),
        (
            (
                "data.source=tokens",
                "data.path={root}/tokens.bin",
                "data.eval_path={root}/text",
                "model.vocab_size=1000",
            ),
            r"data\.eval_path=.* means nothing with data\.source=tokens",
        ),
        (("task=seq2seq", "data.source=text", "data.path={root}/text"), "needs data.target_path"),
        (("data.source=text", "data.path={root}/text", "data.target_path={root}/text"), "set task=seq2seq"),
        (
            ("task=seq2seq", "data.source=csv", "data.path={root}/table.csv", "data.target_path=x"),
            "data.target_path=x means nothing",
        ),
        (
            ("task=seq2seq", "data.source=text", "data.path={root}/lines.jsonl", "data.target_path={root}/table.csv"),
            r"lines.jsonl \(data.path\) has 20 lines and \S*table.csv \(data.target_path\) 21, but line N",
        ),
        (("data.packing=documents", "data.length=64"), "data.long_documents"),
        (("data.tokenizer=bpe",), "bpe:N"),
        (("data.cleaning=('lowercas',)",), "lowercas.*expected steps out of"),
    ],
)
def test_bad_input(config_file, corpora, overrides, message):
    with pytest.raises(UserError, match=message):
        read_data(config_of(config_file, corpora, *overrides))


def test_all_sources_of_a_mixture_are_scored_by_their_share_of_what_is_held_out(config_file, tmp_path):
    counts = {"a": 60, "b": 20, "c": 20}
    for name, count in counts.items():
        pairs = [{"source": f"{name} {n}", "target": f"{n} {name}"} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    entries = ",".join(f"{{'source':'jsonl','path':'{tmp_path}/{name}.jsonl','weight':1.0}}" for name in counts)
    overrides = (
        f"data.mixture=({entries})", f"data.cache_dir={tmp_path}/cache", "data.eval_fraction=0.5",
        "task=seq2seq", "model.preset=seq2seq_nano", "data.length=64",
    )  # fmt: skip
    some = read_data(load(config_file, *overrides, "eval.num_scored=10")).pairs.references
    assert [sum(name in text for text in some) for name in counts] == pytest.approx([6, 2, 2], abs=1)
    assert len(some) == 10
    data = read_data(load(config_file, *overrides, "eval.num_scored=1000"))
    tokenizer, scored = data.vocabularies.tokenizer, data.pairs
    assert len(scored.sources) == len(scored.references) == data.evaluation.num_rows
    for source, reference in zip(scored.sources, scored.references, strict=True):
        assert tokenizer.decode(source[:-1]).split() == reference.split()[::-1]
    [one] = read_data(load(config_file, *overrides, "eval.num_scored=1")).pairs.references
    assert one.endswith("a")


@pytest.mark.parametrize("split", ["eval_fraction", "eval_path"])
def test_references_are_the_texts_and_not_what_the_tokenizer_makes_of_them(config_file, tmp_path, split, monkeypatch):
    """wordpiece puts blanks around an apostrophe, and has not seen the characters of the held-out part."""
    records = [{"source": f"don't {n}", "target": f"Don't  stop: it's {n}" + "ŝ" * (n >= 40)} for n in range(50)]
    records[45]["target"] = ""  # dropped by cleaning, so that it is no example
    lines = [json.dumps(record) + "\n" for record in records]
    (tmp_path / "all.jsonl").write_text("".join(lines))
    (tmp_path / "train.jsonl").write_text("".join(lines[:40]))
    (tmp_path / "held.jsonl").write_text("".join(lines[40:]))
    paths = {
        "eval_fraction": (f"data.path={tmp_path}/all.jsonl", "data.eval_fraction=0.2"),
        "eval_path": (f"data.path={tmp_path}/train.jsonl", f"data.eval_path={tmp_path}/held.jsonl"),
    }
    config = load(
        config_file, "task=seq2seq", "data.source=jsonl", *paths[split], "data.tokenizer=wordpiece:60", "data.length=64",
        "data.cleaning=('lowercase','whitespace','min_chars:1')", f"data.cache_dir={tmp_path}/cache", "eval.num_scored=5",
    )  # fmt: skip
    data = read_data(config)
    held_out = [f"don't stop: it's {n}" + "ŝ" * (n >= 40) for n in range(50) if n != 45][-data.evaluation.num_rows :]
    chosen = [held_out[number] for number in np.linspace(0, len(held_out) - 1, 5).astype(int)]
    assert data.pairs.references == tuple(chosen)
    tokenizer = data.vocabularies.tokenizer
    assert tokenizer.decode(tokenizer.encode(chosen[-1])) != chosen[-1]
    monkeypatch.setattr(tokenizing, "kept_records", lambda *_, **__: pytest.fail("read again"))
    assert read_data(config).pairs.references == tuple(chosen)


def test_stdlib_has_examples_for_every_task(config_file, tmp_path, monkeypatch):
    library = tmp_path / "library"
    code = "def scale_value(value):\n    return value * {}\n\n\n" * 10
    for name in ("email/a.py", "email/b.py", "xml/a.py", "xml/b.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(code.replace("{}", repr(name)))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))

    def read(*overrides):
        cache = f"data.cache_dir={tmp_path}/cache"
        return read_data(load(config_file, "data.source=stdlib", "data.eval_fraction=0.5", cache, *overrides))

    labelled = ("task=classification", "model.preset=encoder_nano")
    paired = ("task=seq2seq", "model.preset=seq2seq_nano", "data.length=64")
    completed = ("causal_lm.completion_only=True", "data.length=128")
    for overrides in (labelled, paired, completed):
        data = read(*overrides, "data.long_documents=cut")
        assert (data.train.num_rows, data.evaluation.num_rows) == ((2, 2) if overrides is labelled else (20, 20))
        labels = data.vocabularies.labels
        assert labels is None or labels.names == ("email", "xml")
        assert data.pairs is None or set(data.pairs.references) == {
            f"return value * '{name}'" for name in ("email/a.py", "xml/b.py")
        }
        fingerprint = data.fingerprint
        (library / "xml" / "a.py").write_text(code.replace("{}", overrides[0]).replace("=", "+"))
        assert read(*overrides, "data.long_documents=cut").fingerprint != fingerprint


def test_the_characters_of_a_tokenizer_include_the_separator(config_file, tmp_path):
    """Which no record need hold, and every prompt ends with."""
    lines = [json.dumps({"source": f"ab{number % 3}", "target": "cd"}) for number in range(40)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    keys = [
        "data.source=jsonl",
        f"data.path={tmp_path}/lines.jsonl",
        "data.tokenizer=char",
        "causal_lm.completion_only=True",
    ]
    for separator in ("=>", "#"):
        data = read_data(load(config_file, *keys, f"causal_lm.separator={separator}"))
        tokenizer = data.vocabularies.tokenizer
        assert tokenizer.decode(tokenizer.encode(f"ab0{separator}")) == f"ab0{separator}"
        assert tokenizer.eos_id == len(set("ab012cd") | set(separator))
