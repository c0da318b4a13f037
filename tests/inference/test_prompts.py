"""Prompts of `generate` begin as training rows do, and what is printed joins the prompt as decoding does."""

import json

import numpy as np
import pytest
import tokenizers
from tiers import others_slow
from tiny_runs import load, read_data
from tokenizers import decoders, models, pre_tokenizers

import jaxdp
from jaxdp.data.tokenizers import ByteTokenizer, load_tokenizer, make_tokenizer
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling
from jaxdp.errors import UserError
from jaxdp.inference.prompts import make_prompts
from jaxdp.tasks.make import make_task

GREEDY = Sampling(temperature=0)
SENTENCE = "the cat sat on a mat"


def settings(path, *more):
    """Overrides of the tiny configuration: no evaluation and no save before the end."""
    return (
        "data.source=jsonl", f"data.path={path}", "data.length=32", "model.embed_dim=32", "optim.warmup_steps=0",
        "optim.learning_rate=0.01", "eval.every_steps=0", "checkpoint.every_steps=0", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Documents of two letters: the first tells the second."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    records = [{"text": "ab"}, {"text": "cd"}, {"text": "ef"}] * 100
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("packing", others_slow(["documents", "none", "cut"], "documents"))
def test_a_run_continues_a_document_as_it_learned_it(packing, pairs, config_file, tmp_path):
    changes = settings(
        pairs, f"data.packing={packing}", "data.tokenizer=char", "total_steps=150", "optim.ema_decay=0.0"
    )
    jaxdp.train(load(config_file, *changes), str(tmp_path / "run"))
    samples = jaxdp.generate(str(tmp_path / "run"), ["a", "c", "e"], strategy=GREEDY, max_new_tokens=8, cpu_devices=8)
    assert [sample.text for sample in samples] == ["b", "d", "f"]
    if packing == "documents":
        drawn = jaxdp.generate(str(tmp_path / "run"), [""], num_samples=12, max_new_tokens=8, cpu_devices=8)
        assert {sample.text for sample in drawn} <= {"ab", "cd", "ef"}


@pytest.mark.parametrize("packing", ["none", "documents"])
@pytest.mark.parametrize("separator", ["\n", "=>", "é|"])
def test_a_prompt_of_characters_ends_with_the_separator(packing, separator, config_file, tmp_path):
    """Its characters are part of the vocabulary, though no record has them."""
    (tmp_path / "pairs.jsonl").write_text('{"source": "ab", "target": "cd"}\n' * 40)
    changes = settings(
        tmp_path / "pairs.jsonl", f"data.packing={packing}", "data.tokenizer=char", "causal_lm.completion_only=True"
    )
    config = load(config_file, *changes)
    options = config.task_options | {"separator": separator}  # some of them no command line takes
    config = config.replaced(task_groups=config.task_groups | {"causal_lm": options})
    vocabularies = read_data(config).vocabularies
    task, tokenizer = make_task(config, vocabularies), vocabularies.tokenizer
    [prompt] = make_prompts(["ba"], config.data, task, tokenizer)
    assert prompt.text == tokenizer.decode(prompt.tokens[-len(prompt.text) :]) == f"ba{separator}"
    with pytest.raises(UserError, match=r"prompt 2 of 2: .*'x'"):
        make_prompts(["ab", "ax"], config.data, task, tokenizer)


TEXT = '{"text": "ab"}\n' * 40
PAIRS = '{"source": "ab", "target": "cd"}\n' * 40


@pytest.mark.parametrize(
    ("packing", "options", "content"),
    [
        ("documents", (), TEXT),
        ("none", (), TEXT),
        ("cut", (), TEXT),
        ("documents", ("causal_lm.completion_only=True",), PAIRS),
        ("none", ("causal_lm.completion_only=True",), PAIRS),
    ],
)
def test_the_tokens_of_a_prompt_are_those_of_a_training_row(packing, options, content, config_file, tmp_path):
    (tmp_path / "data.jsonl").write_text(content)
    config = load(config_file, *settings(tmp_path / "data.jsonl", f"data.packing={packing}", *options))
    data = read_data(config)
    tokenizer = data.vocabularies.tokenizer
    [prompt] = make_prompts(["ab"], config.data, make_task(config, data.vocabularies), tokenizer)
    assert prompt.text == ("ab\n" if options else "ab")
    row = data.train.rows(np.array([0]))
    read = row["tokens"][0][: len(prompt.tokens)]
    assert prompt.tokens.tolist() == read.tolist()
    assert (prompt.tokens[0] == tokenizer.eos_id) == (packing == "documents")


def test_an_empty_prompt_needs_rows_in_which_a_text_begins(pairs, config_file):
    def prompts(packing, *texts):
        config = load(config_file, *settings(pairs, f"data.packing={packing}"))
        return make_prompts(texts, config.data, make_task(config), ByteTokenizer())

    assert [prompt.tokens.tolist() for packing in ("documents", "cut") for prompt in prompts(packing, "")] == [
        [256],
        [256],
    ]
    with pytest.raises(UserError, match=r"the prompt has no token, expected one or more: with data\.packing=none"):
        prompts("none", "")
    assert len(prompts("none", "x" * 31)[0].tokens) == 31
    with pytest.raises(UserError, match=r"prompt 2 of 2 has 32 tokens, .* context is 32 .* shorten it to 31 tokens"):
        prompts("none", "x", "x" * 32)
    with pytest.raises(UserError, match=r"has 31 tokens, .* end of text before a document .* shorten it to 30 tokens"):
        prompts("documents", "x" * 31)


def test_prompts_are_cleaned_as_the_training_texts_were(pairs, config_file):
    cleaning = "data.cleaning=('unicode:NFC','lowercase','whitespace')"
    config = load(config_file, *settings(pairs, cleaning))
    prompts = make_prompts(["The  CAFE\u0301 ", "a \n"], config.data, make_task(config), ByteTokenizer())
    assert [prompt.text for prompt in prompts] == ["the caf\u00e9 ", "a\n"]


def word_level(path):
    """Words, no decoder: decoded, they stand with a blank between them."""
    words = {word: number for number, word in enumerate(["[UNK]", "<|endoftext|>", *dict.fromkeys(SENTENCE.split())])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))
    return load_tokenizer(path)


def metaspace(path):
    """SentencePiece's way: a blank is a part of the word behind it, and the first one is put there."""
    pieces = [
        ("[UNK]", 0.0),
        *((f"\u2581{word}", -1.0) for word in dict.fromkeys(SENTENCE.split())),
        ("\u2581", -5.0),
        ("s", -6.0),
    ]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))
    return load_tokenizer(path)


MAKERS = {
    "wordpiece": lambda path: make_tokenizer("wordpiece:60", [SENTENCE] * 50),
    "word level": word_level,
    "metaspace": metaspace,
    "bpe": lambda path: make_tokenizer("bpe:280", [SENTENCE] * 50),
    "char": lambda path: make_tokenizer("char", [SENTENCE]),
    "byte": lambda path: ByteTokenizer(),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_continuation_joins_the_prompt_with_its_blank(kind, tmp_path):
    tokenizer = MAKERS[kind](tmp_path / "tokenizer.json")
    ids = tokenizer.encode(SENTENCE)
    assert tokenizer.decode(ids) == SENTENCE
    for cut in range(len(ids) + 1):
        before, after = ids[:cut], ids[cut:]
        assert tokenizer.decode(before) + tokenizer.decode_after(before, after) == SENTENCE
        end = np.int32(tokenizer.eos_id)
        assert tokenizer.decode_after(np.append(end, before), after) == tokenizer.decode_after(before, after)


def test_a_character_may_be_cut_between_prompt_and_continuation():
    tokenizer, ids = ByteTokenizer(), ByteTokenizer().encode("a\u20acb")
    assert [tokenizer.decode_after(ids[:cut], ids[cut:]) for cut in range(6)] == [
        "a\u20acb", "\u20acb", "\u20acb", "\u20acb", "b", "",
    ]  # fmt: skip


@pytest.mark.slow  # the words: test_a_continuation_joins_the_prompt_with_its_blank
@pytest.mark.parametrize("blank", ["", " "])
def test_samples_and_beams_continue_words(blank, config_file, tmp_path):
    """With a tokenizer whose words do not tell of blanks, from the run to what is printed."""
    (tmp_path / "text.jsonl").write_text((json.dumps({"text": SENTENCE}) + "\n") * 50)
    changes = settings(tmp_path / "text.jsonl", "data.tokenizer=wordpiece:60", "total_steps=1")
    workdir = str(tmp_path / "run")
    jaxdp.train(load(config_file, *changes), workdir)
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    before = tokenizer.encode("the cat")
    for options in ({"num_samples": 3}, {"strategy": BeamSearch(3, num_returned=2)}):
        samples = jaxdp.generate(workdir, ["the cat" + blank], max_new_tokens=8, cpu_devices=8, **options)
        assert len(samples) == (3 if "num_samples" in options else 2)
        for sample in samples:
            joined = tokenizer.decode(np.append(before, sample.tokens))
            assert sample.prompt + sample.text in (joined, joined.replace("the cat", "the cat" + blank, 1))
            assert sample.text.startswith(" ") == (not blank and joined.startswith("the cat "))
