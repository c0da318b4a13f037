"""Tokenizer files of others, made here in the ways that well-known models are."""

import json

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from jaxdp.data.tokenizers import load_tokenizer, make_tokenizer
from jaxdp.data.tokenizers.characters import byte_symbol
from jaxdp.errors import UserError

BYTES = {byte_symbol(byte): byte for byte in range(256)}
TEXTS = ("a cab  on\nthe mat", "", " ", "naïve 日本 👩‍👩‍👧", "abc" * 30)


def bert():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cab", "the", "##b", "mat", "[", "]", "sep"]
    theirs = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=True)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    theirs.decoder = decoders.WordPiece()
    theirs.add_special_tokens(words[:5])
    theirs.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    theirs.enable_truncation(4)
    theirs.enable_padding(length=16)
    return theirs


def t5():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("▁cab", -4.0)]
    pieces += [(c, -6.0) for c in "bconthemat</s>▁"[:10]] + [("<", -7.0), ("/", -7.0), (">", -7.0), ("s", -7.0)]
    theirs = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=2))
    theirs.pre_tokenizer = pre_tokenizers.Metaspace()
    theirs.decoder = decoders.Metaspace()
    theirs.add_special_tokens(["<pad>", "</s>", "<unk>"])
    theirs.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return theirs


def llama2():
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {piece: 259 + i for i, piece in enumerate(["▁", "a", "b", "c", "ab", "▁c"])}
    theirs = Tokenizer(
        models.BPE(vocab, [("a", "b"), ("▁", "c")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    theirs.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    theirs.add_special_tokens(["<unk>", "<s>", "</s>"])
    return theirs


def llama3():
    vocab = BYTES | {"ab": 256, "the": 257, "<|end|>": 258}
    theirs = Tokenizer(models.BPE(vocab, [("a", "b")], ignore_merges=True))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    theirs.decoder = decoders.ByteLevel()
    theirs.add_tokens(["    ", "日本語"])
    theirs.add_special_tokens(["<|begin_of_text|>", "<|end|>", "<|end_of_text|>"])
    return theirs


def words():
    theirs = Tokenizer(models.WordLevel({"a": 0, "cab": 1, "?": 2}, unk_token="?"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    return theirs


MODELS = {"bert": bert, "t5": t5, "llama2": llama2, "llama3": llama3, "words": words}
END_OF_TEXT = {"bert": 3, "t5": 1, "llama2": 2, "llama3": 262, "words": 3}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def theirs(name):
    return MODELS[name]()


@pytest.fixture
def path(theirs, tmp_path):
    theirs.save(str(tmp_path / "theirs.json"))
    return str(tmp_path / "theirs.json")


@pytest.fixture
def ours(path):
    return make_tokenizer(path, [])


def test_ids_are_those_of_the_file_and_nothing_is_added(ours, theirs):
    theirs.no_truncation()
    theirs.no_padding()
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids
        if not theirs.token_to_id("<unk>") and theirs.token_to_id("[UNK]") not in ids:
            assert ours.decode(ids) == theirs.decode(ids.tolist()).replace("?", "\ufffd")


def test_end_of_text(ours, name):
    assert ours.eos_id == END_OF_TEXT[name]
    added = "<|endoftext|> was added as id 3"
    assert (added in ours.describe()) == (name == "words")
    assert ours.decode([ours.eos_id]) == ""


def test_names_of_special_tokens_are_characters(ours):
    special = set(ours.special_ids.values())
    for token, i in ours.special_ids.items():
        for text in (token, f"a {token} b", f"a{token}"):
            found = special & set(ours.encode(text).tolist())
            assert found <= {ours._unknown_id} and (i not in found or i == ours._unknown_id)
    assert "read as special" not in ours.describe()


def test_lossless_only_where_every_byte_comes_back(ours, name):
    sizes = ours.token_bytes()
    assert (sizes is not None) == (name == "llama3") == ("lossy" not in ours.describe())
    if sizes is not None:
        assert sizes[[256, 257, 258, 259, 260, 261, 262]].tolist() == [2, 3, 0, 4, 9, 0, 0]
        text = "the\nabc    日本語\n\ud7ff\x00é<|end|>"
        ids = ours.encode(text)
        assert {256, 257, 259, 260} <= set(ids.tolist())
        assert ours.decode(ids) == text and sizes[ids].sum() == len(text.encode())


def test_saved_and_loaded_it_is_the_same(ours, tmp_path):
    ours.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.to_json() == ours.to_json() and loaded.special_ids == ours.special_ids
    assert loaded.vocab_size == ours.vocab_size == max(ours._symbols) + 1
    assert loaded.eos_id == ours.eos_id


def test_special_tokens_that_a_task_asks_for(path, ours, name):
    tokenizer = make_tokenizer(path, [], ("[MASK]", "[NEW]"))
    assert tokenizer.special_id("[NEW]") == tokenizer.vocab_size - 1
    assert tokenizer.special_ids.items() >= ours.special_ids.items()
    assert ("[MASK] was added" in tokenizer.describe()) == (name != "bert")
    assert tokenizer.eos_id == ours.eos_id
    assert tokenizer.special_id("[NEW]") not in tokenizer.encode("[NEW]")


def edited(path, edit):
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    edit(content)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return load_tokenizer(path)


@pytest.mark.parametrize("name", ["llama3"])
def test_random_merges_are_off(path):
    tokenizer = edited(path, lambda content: content["model"].update(dropout=0.5))
    assert all(256 in tokenizer.encode("xab") for _ in range(20))


def renamed(vocab):
    """Without the byte 97."""
    return {"aa" if symbol == "a" else symbol: i for symbol, i in vocab.items()}


@pytest.mark.parametrize("name", ["llama3"])
def test_what_makes_bytes_inexact(path, theirs):
    for edit in (
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
        lambda content: content["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        lambda content: content["added_tokens"][1].update(lstrip=True),
        lambda content: content["added_tokens"][1].update(content="éé"),  # decoded as a byte
        lambda content: content["model"].update(vocab=renamed(content["model"]["vocab"]), merges=[]),
        lambda content: content.update(decoder=None),
    ):
        theirs.save(path)
        assert edited(path, edit).token_bytes() is None


@pytest.mark.parametrize("name", ["llama3"])
def test_special_token_that_merges_make(path):
    def edit(content):
        content["added_tokens"].append({**content["added_tokens"][-1], "id": 256, "content": "ab"})

    tokenizer = edited(path, edit)
    assert tokenizer.special_id("ab") == 256
    assert "a text that has the characters ab is read as special tokens" in tokenizer.describe()


@pytest.mark.parametrize("name", ["llama3"])
def test_ids_with_gaps_keep_their_numbers(path):
    def edit(content):
        [blanks] = [token for token in content["added_tokens"] if token["content"] == "    "]
        blanks["id"] = 300

    tokenizer = edited(path, edit)
    assert tokenizer.vocab_size == 301 and 300 in tokenizer.encode("a    b")
    assert "ids of " in tokenizer.describe() and "have no token and are filled with unused ones" in tokenizer.describe()
    gaps = [number for name, number in tokenizer.special_ids.items() if name.startswith("<|unused_")]
    assert 299 in gaps and not set(gaps) & set(tokenizer.encode("<|unused_299|> unused").tolist())
    assert tokenizer.decode([299]) == ""


def test_gaps_inside_the_model_keep_their_numbers(tmp_path):
    vocab = {symbol: 2 * number for symbol, number in BYTES.items()}
    Tokenizer(models.BPE(vocab, [])).save(str(tmp_path / "plain.json"))
    content = json.loads((tmp_path / "plain.json").read_text())
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": 7, "content": "<|endoftext|>", **token}, {"id": 600, "content": "<x>", **token}]
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "theirs.json")
    assert (tokenizer.eos_id, tokenizer.special_id("<x>"), tokenizer.vocab_size) == (7, 600, 601)
    assert tokenizer.encode("ab").tolist() == [vocab["a"], vocab["b"]]
    tokenizer.save(tmp_path / "again.json")
    again = load_tokenizer(tmp_path / "again.json")
    assert again.special_ids == tokenizer.special_ids and again.encode("ab").tolist() == [vocab["a"], vocab["b"]]


@pytest.mark.parametrize("number", [100_000, 2**32 - 1])
def test_a_giant_gap_is_refused(tmp_path, number):
    content = json.loads(Tokenizer(models.BPE(BYTES, [])).to_str())
    content["model"]["vocab"]["zz"] = number
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"257 tokens with ids up to {number:,}; expected ids with few gaps"):
        load_tokenizer(tmp_path / "theirs.json")


def test_added_tokens_are_decoded_as_the_normalizer_wrote_them(tmp_path):
    theirs = Tokenizer(models.BPE(BYTES, []))
    theirs.normalizer = normalizers.ByteLevel()
    theirs.decoder = decoders.ByteLevel()
    theirs.add_tokens(["éé"])
    theirs.save(str(tmp_path / "theirs.json"))
    tokenizer = load_tokenizer(tmp_path / "theirs.json")
    ids = tokenizer.encode("a éé")
    assert ids.tolist() == [97, 32, 256]
    assert tokenizer.decode(ids) == theirs.decode(ids.tolist()) == "a éé"


def test_end_of_text_among_the_words_becomes_special(tmp_path):
    theirs = Tokenizer(models.BPE(BYTES | {"<|endoftext|>": 256}, []))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    theirs.save(str(tmp_path / "theirs.json"))
    tokenizer = load_tokenizer(tmp_path / "theirs.json")
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (256, 257)


def test_ordinary_added_token_over_a_blank_is_not_cut(tmp_path):
    theirs = Tokenizer(models.BPE(BYTES, []))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.add_tokens([AddedToken("b\nc", normalized=False)])
    theirs.save(str(tmp_path / "theirs.json"))
    ids = load_tokenizer(tmp_path / "theirs.json").encode("ab\nc" * 50_000)
    assert ids.tolist() == [ord("a"), 256] * 50_000
