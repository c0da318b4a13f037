"""Sentence encoders: import with their pooling, vectors against NumPy, and refusals."""

import json

import numpy as np
import pytest
from tiny_folders import BERT, LENGTH, VOCAB, bert_shapes, random_tensors, write_folder
from tokenizers import Tokenizer, models, pre_tokenizers

import jaxdp
from jaxdp.config import parse_config
from jaxdp.errors import UserError
from jaxdp.interop.exporting import export_model
from jaxdp.interop.hf_folder import HuggingFaceFolder
from jaxdp.interop.importing import import_model
from jaxdp.interop.open_source import open_source
from jaxdp.interop.reference.bert import bert
from jaxdp.tasks.make import make_task

WORDS = ["a", "bee", "sees", "the", "sea"]
TEXTS = ["a bee sees the sea", "the sea", ""]
CONFIG = BERT | {"architectures": ["BertModel"]}
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "word_embedding_dimension": 8}


@pytest.fixture(scope="module")
def tensors():
    shapes = {name: shape for name, shape in bert_shapes("").items() if not name.startswith("cls.")}
    return random_tensors(shapes)


def write_encoder(folder, tensors, modules=("Transformer", "Pooling", "Normalize"), pooling=MEAN):
    write_folder(folder, CONFIG, tensors)
    vocab = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, kind)} for kind in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tensors):
    folder = tmp_path_factory.mktemp("encoder")
    import_model(write_encoder(folder / "hf", tensors), folder / "work")
    return jaxdp.load(folder / "work")


def expected_hidden(tensors, text):
    words = [5 + WORDS.index(word) for word in text.split()]
    tokens = np.array([[2, *words, 3]])
    return bert(lambda name: tensors[name].astype(float), CONFIG, set(tensors), tokens, np.ones(tokens.shape, bool))[0]


def test_vectors_are_those_of_numpy(encoder, tensors):
    found = encoder.encode(TEXTS)
    means = np.stack([expected_hidden(tensors, text).mean(0) for text in TEXTS])
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("pooling", "position"), [("cls", 0), ("last", -1)])
def test_other_poolings(encoder, tensors, pooling, position):
    found = encoder.encode(TEXTS, pooling=pooling, normalize=False)
    expected = np.stack([expected_hidden(tensors, text)[position] for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predict_gives_the_same_vectors_and_passes_fields_through(encoder):
    answers = encoder.predict([{"text": TEXTS[0], "id": 7}])
    assert answers[0]["id"] == 7
    np.testing.assert_allclose(answers[0]["embedding"], encoder.encode(TEXTS[0])[0], atol=1e-6)


def test_no_texts_and_wrong_arguments(encoder):
    assert len(encoder.encode([])) == 0
    with pytest.raises(UserError, match=r"pooling must be one of .mean., .cls., .first., .last."):
        encoder.encode(TEXTS, pooling="max")
    with pytest.raises(UserError, match="texts"):
        encoder.encode([1])


def test_long_texts_are_cut(encoder):
    text = "sea " * LENGTH
    cut = " ".join(["sea"] * (LENGTH - 2))
    np.testing.assert_allclose(encoder.encode(text), encoder.encode(cut), atol=1e-6)


def test_it_has_no_objective(encoder, tmp_path):
    with pytest.raises(UserError, match="task=embedding has no objective"):
        (tmp_path / "data.txt").write_text("a bee\n" * 20)
        encoder.evaluate({"path": str(tmp_path / "data.txt")})


@pytest.mark.parametrize(
    ("modules", "pooling", "problem"),
    [
        (("Transformer", "Pooling", "Dense"), MEAN, "has the module Dense"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "the pooling pooling_mode_max_tokens is not"),
        (
            ("Transformer", "Pooling"),
            MEAN | {"pooling_mode_cls_token": True},
            "mean_tokens and pooling_mode_cls_token|cls",
        ),
    ],
)
def test_what_the_vectors_would_lose_is_refused(tmp_path, tensors, modules, pooling, problem):
    with pytest.raises(UserError, match=problem):
        import_model(write_encoder(tmp_path / "hf", tensors, modules, pooling), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_without_pooling_module_it_is_the_first_token_as_in_bert(tmp_path, tensors):
    folder = write_encoder(tmp_path / "hf", tensors)
    (folder / "modules.json").unlink()
    workdir = import_model(folder, tmp_path / "work")
    config = json.loads((workdir / "config.json").read_text())
    assert config["embedding"] == {"pooling": "first", "normalize": False, "max_length": None}
    assert config["model"]["vocab_size"] == VOCAB


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_texts_are_cut_where_sentence_transformers_cuts_them(tmp_path, tensors, name):
    folder = write_encoder(tmp_path / "hf", tensors)
    (folder / name).write_text('{"max_seq_length": 6, "do_lower_case": false}')
    loaded = jaxdp.load(import_model(folder, tmp_path / "work"))
    config = json.loads((tmp_path / "work/config.json").read_text())
    assert (config["embedding"]["max_length"], config["data"]["length"]) == (6, LENGTH)
    expected = expected_hidden(tensors, "a bee sees the").mean(0)
    expected /= np.linalg.norm(expected)
    text = "a bee sees the sea the sea"
    np.testing.assert_allclose(loaded.encode([text, "a bee"])[0], expected, atol=1e-5)
    np.testing.assert_allclose(loaded.predict([text])[0]["embedding"], expected, atol=1e-5)
    out = export_model(tmp_path / "work", tmp_path / "out")
    assert (out / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(("found", "expected"), [(LENGTH, None), (512, None), (None, None), (LENGTH - 1, LENGTH - 1)])
def test_a_limit_beyond_the_positions_cuts_nothing(tmp_path, tensors, found, expected):
    folder = write_encoder(tmp_path / "hf", tensors)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": found}))
    values = HuggingFaceFolder(open_source(folder)).run_values()
    assert values["embedding"].get("max_length") == expected


@pytest.mark.parametrize("found", [0, -1, "6", True, 6.5])
def test_another_limit_is_refused(tmp_path, tensors, found):
    folder = write_encoder(tmp_path / "hf", tensors)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": found}))
    with pytest.raises(UserError, match="max_seq_length must be a whole number of at least 1, found"):
        import_model(folder, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("max_length", [0, 17])
def test_the_limit_is_checked(max_length):
    config = parse_config({"task": "embedding", "total_steps": 1, "data": {"length": 16}})
    group = {**config.task_options, "max_length": max_length}
    with pytest.raises(UserError, match=f"embedding.max_length={max_length} must be from 1 to data.length=16"):
        make_task(config.replaced(task_groups={"embedding": group}))
