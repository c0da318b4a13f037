import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers as hugging_face
from training_texts import FRONT, SPECIAL

from jaxdp.data.tokenizers import ONE_THREAD, library, load_tokenizer, make_tokenizer
from jaxdp.data.tokenizers.cuts import PIECE_LENGTH
from jaxdp.data.tokenizers.library import HIDDEN
from jaxdp.errors import UserError

NAMES = "x<|endoftext|>y [CLS][MASK] [UNK]"
LOSSLESS = ("bpe", "unigram")


def random_texts(count):
    """Strings of all planes, with what breaks tokenizers among them."""
    rng = random.Random(0)
    ranges = [(0, 0x80), (0x80, 0x800), (0x300, 0x370), (0x800, 0xD800), (0xE000, 0x10000)]
    ranges += [(0x1F300, 0x1F700), (0x10000, 0x20000), (0xE0000, 0xE0200), (0x100000, 0x110000)]
    whole = ["\r", "\r\n", "\n \n", " " * 300, "\0", "👩‍👩‍👧", "e\u0301", "ﬁ", "▁", "##", "<0x41>", "Ġ", "'s"]
    for _ in range(count):
        characters = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(12)]
        yield "".join(rng.sample([*characters, *rng.choices(whole, k=6), *NAMES.split()], k=20))


def test_vocabulary_is_as_large_as_asked_with_special_tokens_in_front(tokenizer, kind):
    assert tokenizer.vocab_size == 1000
    assert tokenizer.special_ids == {name: i for i, name in enumerate(FRONT[kind])}
    assert tokenizer.eos_id == 0 and tokenizer.special_id("[MASK]") == len(FRONT[kind]) - 1
    vocab = hugging_face.Tokenizer.from_str(tokenizer.to_json()).get_vocab()
    assert sorted(vocab.values()) == list(range(1000))
    assert tokenizer.describe().endswith("not kept" if kind == "wordpiece" else "of 1000 tokens")


def test_small_data_give_fewer_and_say_so(kind):
    tokenizer = make_tokenizer(f"{kind}:5000", ["the cat sat on the mat"] * 3)
    assert tokenizer.vocab_size < 300
    assert "5000 were asked for, the data gave no more" in tokenizer.describe()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_string_comes_back(tokenizer):
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (1000,) and sizes.dtype == np.int32
    assert sizes[:3].tolist() == [0, 0, 0] and sizes[3:].min() == 1
    texts = [*random_texts(300), "", " ", "\n", "\r", "\0"]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert tokenizer.decode(ids) == text
        assert sizes[ids].sum() == len(text.encode())
        assert not ids.size or len(SPECIAL) < ids.min() <= ids.max() < 1000


def test_names_of_special_tokens_are_characters(tokenizer):
    special = set(tokenizer.special_ids.values())
    unknown = tokenizer.special_ids.get("[UNK]")
    for text in (NAMES, *tokenizer.special_ids, HIDDEN + "[MASK]"):
        ids = set(tokenizer.encode(text).tolist())
        assert ids and not ids & special - {unknown}
    assert unknown not in tokenizer.encode("[UNK] [CLS]")
    assert tokenizer.spelled_specials() == []


def test_batch_gives_what_single_texts_give(tokenizer, texts):
    batch = [*texts[:5], "", *random_texts(50), NAMES]
    for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))
    assert tokenizer.encode_batch([]) == []


def test_batches_are_encoded_in_groups(monkeypatch):
    monkeypatch.setattr(library, "GROUP_LENGTH", 5)
    groups = library._groups(iter(["aaa", "", "bbb", "c" * 9, "d"]))
    assert list(groups) == [["aaa", "", "bbb"], ["c" * 9], ["d"]]


def test_long_text_is_encoded_as_if_whole(tokenizer, texts):
    text = "\n\n  ".join(texts) + " " * 1000
    assert len(text) > 3 * PIECE_LENGTH
    theirs = hugging_face.Tokenizer.from_str(tokenizer.to_json())
    np.testing.assert_array_equal(tokenizer.encode(text), theirs.encode(text).ids)


def test_special_tokens_are_left_out_and_unknown_ids_show(tokenizer):
    ids = [*tokenizer.encode("a"), tokenizer.eos_id, tokenizer.special_id("[MASK]"), *tokenizer.encode("b")]
    assert tokenizer.decode(ids).replace(" ", "") == "ab"
    shown = tokenizer.decode(np.array([-1, *tokenizer.encode("a"), 10_000]))
    assert shown.replace(" ", "") == "\ufffda\ufffd"
    assert tokenizer.decode([]) == ""


def test_saved_file_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    copy = pickle.loads(pickle.dumps(tokenizer))
    theirs = hugging_face.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert copy.describe() == tokenizer.describe()
    for other in (loaded, copy):
        assert other.to_json() == tokenizer.to_json() and other.special_ids == tokenizer.special_ids
    for text in random_texts(50):
        ids = tokenizer.encode(text)
        np.testing.assert_array_equal(loaded.encode(text), ids)
        np.testing.assert_array_equal(copy.encode(text), ids)
        assert tokenizer.decode(ids) == loaded.decode(ids)
        plain = text.replace("<|endoftext|>", "").replace("[", "")
        assert theirs.encode(plain).ids == tokenizer.encode(plain).tolist()


SCRIPT = """
import hashlib, sys
sys.path.insert(0, {folder!r})
from training_texts import KINDS, SPECIAL, source_texts
from jaxdp.data.tokenizers import make_tokenizer
texts = [*source_texts(), *(chr(point) * 2 for point in range(0x400, 0x800))]
for kind in KINDS:
    print(hashlib.sha256(make_tokenizer(f"{{kind}}:2600", texts, SPECIAL).to_json().encode()).hexdigest())
"""


def test_same_data_give_the_same_file_in_any_process():
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **variables, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variables, seed in ((ONE_THREAD, "1"), ({"RAYON_NUM_THREADS": "3"}, "2"))
    ]
    (first, errors), (second, more) = (run.communicate() for run in runs)
    assert len(first.split()) == 3 and first == second
    assert errors == more == ""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
def test_one_thread_in_workers(tokenizer):
    script = (
        "import os, pickle, sys\n"
        "tokenizer = pickle.load(sys.stdin.buffer)\n"
        "from jaxdp.data.tokenizers import ONE_THREAD\n"
        "if sys.argv[1:]: os.environ.update(ONE_THREAD)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "tokenizer.encode_batch(['some text'] * 100)\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "3"}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    more = [
        int(
            subprocess.run(
                [sys.executable, "-c", script, *argument],
                input=pickle.dumps(tokenizer),
                env=environment,
                capture_output=True,
                check=True,
            ).stdout
        )
        for argument in ([], ["one"])
    ]
    assert more == [3, 0]


def test_half_a_surrogate_pair(tokenizer):
    with pytest.raises(UserError, match=r"'\\udce9' at position 4 is half of a surrogate"):
        tokenizer.encode("caf \udce9")


def test_vocabulary_too_small(kind, texts):
    with pytest.raises(UserError, match=rf"data\.tokenizer={kind}:5 is too small.*expected {kind}:\d+ or") as error:
        make_tokenizer(f"{kind}:5", texts[:2], SPECIAL)
    smallest = int(str(error.value).rsplit(":", 1)[1].split()[0])
    assert make_tokenizer(f"{kind}:{smallest}", texts[:2], SPECIAL).vocab_size == smallest
    with pytest.raises(UserError, match="too small"):
        make_tokenizer(f"{kind}:{smallest - 1}", texts[:2], SPECIAL)


def test_nothing_to_train_on(kind):
    for texts in ([], ["", "\n"]):
        with pytest.raises(UserError, match="training documents have none"):
            make_tokenizer(f"{kind}:300", texts)


def test_special_token_that_is_a_word(kind):
    with pytest.raises(ValueError, match=r"'MASK' is a word like others: name it \[MASK\]"):
        make_tokenizer(f"{kind}:300", ["some text"], ("MASK",))


def test_text_without_a_blank_is_learned_from_in_parts(kind):
    tokenizer = make_tokenizer(f"{kind}:400", ["ab" * 10_000, *["some text"] * 10])
    longest = max(map(len, hugging_face.Tokenizer.from_str(tokenizer.to_json()).get_vocab()))
    assert longest == {"bpe": 100, "unigram": 16, "wordpiece": 100}[kind]
