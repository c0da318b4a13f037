"""Folders without tokenizer.json: ids of converted vocabularies are those of the libraries that made them."""

import json

import numpy as np
import pytest
import tokenizers
from tiny_folders import BERT, bert_shapes, random_tensors, write_folder
from tokenizers import models, pre_tokenizers, trainers

from jaxdp.data.tokenizers.conversion import convert_vocabulary, why_no_tokenizer
from jaxdp.data.tokenizers.files import parse_tokenizer
from jaxdp.errors import UserError
from jaxdp.interop.hf_folder import tokenizer_of
from jaxdp.interop.importing import import_model
from jaxdp.interop.open_source import open_source

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Größe, naïve café — ﬁne  blanks\tand\n  lines ",
    "漢字 and 😀, 3.14e-5; don't!",
    "",
    "unseen: ζξ",
)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "fox", "dog", "un", "##seen", "caf", "##e", "##é", "."
         , ",", "漢", "3", "##14", "and", "lines", "lazy", "##y")  # fmt: skip


def ours(folder, model_type):
    converted = convert_vocabulary(folder, model_type)
    return parse_tokenizer(converted.content, converted.path)


def ids_of(tokenizer):
    return [tokenizer.encode(text).tolist() for text in TEXTS]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """vocab.json and merges.txt of a trained byte-level BPE."""
    folder = tmp_path_factory.mktemp("bpe")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXTS * 3, trainer)
    library.model.save(str(folder))
    return folder


def theirs(name, folder, **options):
    """Ids by the class of transformers that reads these files, without special tokens."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    found = getattr(transformers, name).from_pretrained(folder, **options)
    return [found(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize(
    "settings", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False, "strip_accents": False}]
)
def test_wordpiece_of_vocab_txt(tmp_path, settings):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "BertTokenizer"}))
    found = ours(tmp_path, "bert")
    first = found.encode("The fox, unseen").tolist()
    assert first == [WORDS.index("The" if settings.get("do_lower_case") is False else "the"), 7, 15, 9, 10]
    assert found.special_ids["[CLS]"] == 2 and found.eos_id == 3 and found.vocab_size == len(WORDS)
    assert ids_of(found) == theirs("BertTokenizer", tmp_path)


@pytest.mark.parametrize(("model_type", "name"), [("gpt2", "GPT2Tokenizer"), ("roberta", "RobertaTokenizer")])
@pytest.mark.parametrize("prefix", [False, True])
def test_byte_level_bpe(byte_level, model_type, name, prefix):
    (byte_level / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": prefix}))
    found = ours(byte_level, model_type)
    assert [found.decode(np.array(ids)).lstrip() for ids in ids_of(found)] == [text.lstrip() for text in TEXTS]
    assert ids_of(found) == theirs(name, byte_level, add_prefix_space=prefix)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """Folder with the file of a unigram model that SentencePiece trained, and the processor that reads it."""
    library = pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    folder = tmp_path_factory.mktemp("spm")

    def trained(name, **options):
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS[:3] * 20),
            model_prefix=str(folder / name),
            vocab_size=50,
            minloglevel=2,
            **options,
        )
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        return library.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))

    return folder, trained


def test_unigram_of_sentencepiece(unigram, tmp_path):
    folder, train = unigram
    processor = train("t5", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (tmp_path / "spiece.model").write_bytes((folder / "t5.spm").read_bytes())
    found = ours(tmp_path, "t5")
    assert ids_of(found) == [processor.encode(text) for text in TEXTS]
    assert (found.eos_id, found.special_ids["<extra_id_0>"], found.vocab_size) == (1, 149, 150)
    processor = train("xlmr")
    (tmp_path / "sentencepiece.bpe.model").write_bytes((folder / "xlmr.spm").read_bytes())
    found = ours(tmp_path, "xlm-roberta")
    assert ids_of(found) == [[number + 1 if number else 3 for number in processor.encode(text)] for text in TEXTS]
    assert found.special_ids == {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 51}


def test_models_that_are_not_unigram_are_refused(unigram, tmp_path):
    folder, train = unigram
    train("bpe", model_type="bpe")
    (tmp_path / "spiece.model").write_bytes((folder / "bpe.spm").read_bytes())
    with pytest.raises(UserError, match="is no unigram model"):
        convert_vocabulary(tmp_path, "t5")


def test_what_cannot_be_converted_is_told(tmp_path):
    assert convert_vocabulary(tmp_path, "bert") is None
    assert why_no_tokenizer(tmp_path).endswith("has no tokenizer.json, so only commands on token ids work")
    (tmp_path / "source.spm").write_bytes(b"x")
    assert convert_vocabulary(tmp_path, "marian") is None
    assert "and source.spm of such a model is not converted" in why_no_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\x0a\xffcut")
    with pytest.raises(UserError, match=r"spiece.model is not a SentencePiece model"):
        convert_vocabulary(tmp_path, "t5")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocab.json without merges.txt"):
        convert_vocabulary(tmp_path, "gpt2")


def test_an_import_has_the_converted_tokenizer(tmp_path, capsys):
    folder = write_folder(tmp_path / "hf", BERT, random_tensors(bert_shapes()), vocab__txt="\n".join(WORDS))
    work = import_model(folder, tmp_path / "work")
    assert "is made of its vocabulary files" in capsys.readouterr().err
    assert json.loads((work / "tokenizer.json").read_text())["model"]["type"] == "WordPiece"
    assert json.loads((work / "config.json").read_text())["data"]["source"] == "text"
    assert tokenizer_of(open_source(folder)).encode("fox").tolist() == [WORDS.index("fox")]
