import pickle

import numpy as np
import pytest
import tokenizers as hugging_face

from jaxdp.data.tokenizers import ByteTokenizer, CharTokenizer, load_tokenizer, make_tokenizer
from jaxdp.errors import UserError

TEXT = "Hello, wörld!\r\n\ttab  two \u2028 日本 😀\x00 end"
UNSEEN = "entwodrl 😀\n\n"  # another order of characters that TEXT has


@pytest.fixture(params=["byte", "char"])
def tokenizer(request):
    return make_tokenizer(request.param, ["ab", TEXT, ""])


def test_byte_ids_are_the_utf8_bytes():
    tokenizer = make_tokenizer("byte", [])
    assert tokenizer.encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (257, 256)
    assert tokenizer.token_bytes().tolist() == [1] * 256 + [0]


def test_char_ids_are_the_sorted_characters():
    tokenizer = make_tokenizer("char", ["cab", "aé"])
    assert tokenizer.encode("abcé").tolist() == [0, 1, 2, 3]
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (5, 4)


def test_char_bytes_are_those_of_utf8():
    characters = "\x00a\x7f\x80é\u07ff\u0800日\uffff\U00010000😀"
    tokenizer = CharTokenizer(characters)
    assert tokenizer.token_bytes().tolist() == [*(len(c.encode()) for c in characters), 0]
    assert tokenizer.token_bytes().dtype == np.int32


def test_round_trip(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32 and 0 <= ids.min() <= ids.max() < tokenizer.eos_id
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.token_bytes()[ids].sum() == len(TEXT.encode())
    assert tokenizer.token_bytes().shape == (tokenizer.vocab_size,)
    assert tokenizer.encode("").shape == (0,) and tokenizer.decode(tokenizer.encode("")) == ""


def test_end_of_text_is_left_out_and_unknown_ids_show(tokenizer):
    ids = [*tokenizer.encode("a"), tokenizer.eos_id, *tokenizer.encode("b")]
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode([-1, *tokenizer.encode("a"), 10_000]) == "\ufffda\ufffd"


def test_bytes_that_are_no_text_show():
    assert ByteTokenizer().decode([0xC3, 97, 0xFF]) == "\ufffda\ufffd"


def test_prompt_in_another_encoding():
    prompt = b"caf\xe9".decode("utf-8", "surrogateescape")  # as sys.argv has it
    assert ByteTokenizer().encode(prompt).max() < 256
    with pytest.raises(UserError, match=r"U\+DCE9"):
        CharTokenizer("acf").encode(prompt)


def test_unknown_character():
    with pytest.raises(UserError, match=r"'z' \(U\+007A\) at position 2 .* 3 char.*tokenizer=byte"):
        CharTokenizer("abc").encode("abz")


def test_saved_file_gives_the_same_tokenizer(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert (loaded.vocab_size, loaded.eos_id) == (
        tokenizer.vocab_size,
        tokenizer.eos_id,
    )
    np.testing.assert_array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    np.testing.assert_array_equal(loaded.token_bytes(), tokenizer.token_bytes())
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


def test_hugging_face_reads_the_same_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = hugging_face.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (TEXT, UNSEEN, "  a", "a\n\n"):
        ids = theirs.encode(text).ids
        assert ids == tokenizer.encode(text).tolist()
        assert theirs.decode(ids) == text == tokenizer.decode(ids)
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert theirs.token_to_id("<|endoftext|>") == tokenizer.eos_id
    assert theirs.decode([tokenizer.eos_id]) == ""


def test_every_byte_has_the_same_id_in_hugging_face():
    theirs = hugging_face.Tokenizer.from_str(ByteTokenizer().to_json())
    points = [*range(0x800), *range(0x800, 0xD800, 64), *range(0xE000, 0x110000, 4096)]
    text = "".join(map(chr, points))
    assert len(set(text.encode())) == 256 - 13  # 13 bytes are never part of UTF-8
    assert theirs.encode(text).ids == list(text.encode())


def test_end_of_text_in_a_text_is_only_characters():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode("a<|endoftext|>")) == "a<|endoftext|>"


def test_special_tokens_have_the_last_ids(tmp_path):
    byte = make_tokenizer("byte", [], ("[MASK]", "<|endoftext|>", "[PAD]"))
    assert byte.special_ids == {"<|endoftext|>": 256, "[MASK]": 257, "[PAD]": 258}
    assert byte.vocab_size == 259 and byte.token_bytes().tolist() == [1] * 256 + [0] * 3
    char = make_tokenizer("char", ["[MASK] b"], ("[MASK]",))
    assert (char.eos_id, char.special_id("[MASK]"), char.vocab_size) == (8, 9, 10)
    assert char.token_bytes().tolist() == [1] * 8 + [0] * 2
    for tokenizer in (byte, char):
        ids = tokenizer.encode("[MASK]")
        assert len(ids) == 6 and ids.max() < tokenizer.eos_id
        assert tokenizer.decode([*ids, tokenizer.special_id("[MASK]"), *ids]) == "[MASK]" * 2
        tokenizer.save(tmp_path / "tokenizer.json")
        loaded = load_tokenizer(tmp_path / "tokenizer.json")
        assert type(loaded) is type(tokenizer) and loaded.special_ids == tokenizer.special_ids
        more = load_tokenizer(tmp_path / "tokenizer.json", ("[CLS]",))
        assert more.special_ids == {**tokenizer.special_ids, "[CLS]": tokenizer.vocab_size}
        with pytest.raises(UserError, match=r"no special token \[CLS\], only <\|endoftext\|>, \[MASK\]"):
            tokenizer.special_id("[CLS]")


def test_travels_to_other_processes(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.to_json() == tokenizer.to_json() and copy.special_ids == tokenizer.special_ids
    assert len(pickle.dumps(tokenizer)) < 1000


def test_batch_and_description(tokenizer):
    one_by_one = [tokenizer.encode(text) for text in (TEXT, "", "ab")]
    for ids, expected in zip(tokenizer.encode_batch([TEXT, "", "ab"]), one_by_one, strict=True):
        np.testing.assert_array_equal(ids, expected)
    assert f"of {tokenizer.vocab_size} tokens" in tokenizer.describe()


def test_vocabulary_of_no_characters(tmp_path):
    CharTokenizer("").save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").vocab_size == 1
