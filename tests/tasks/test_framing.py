"""Special tokens around texts of unequal length."""

import numpy as np
import pytest
import tokenizers
from tiny_tokenizer import LetterTokenizer

from jaxdp.data.labels import Labels
from jaxdp.data.tokenizers import load_tokenizer
from jaxdp.tasks import Classification, MaskedLM, Seq2Seq, TaskInputs, pad_examples
from jaxdp.tasks.framing import BERT_FRAME, ROBERTA_FRAME, encoder_frame, frame, frame_of

TEXT = np.array([[7, 8, 9], [7, 0, 0], [7, 8, 9], [0, 0, 0]], np.int32)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1,), (2,), [[1, 7, 8, 9, 2], [1, 7, 2, 0, 0], [0] * 5, [1, 2, 0, 0, 0]]),
        ((), (2, 3), [[7, 8, 9, 2, 3], [7, 2, 3, 0, 0], [0] * 5, [2, 3, 0, 0, 0]]),
        ((), (), [[7, 8, 9], [7, 0, 0], [0] * 3, [0] * 3]),
    ],
)
def test_tokens_stand_next_to_the_text(before, after, expected):
    tokens, is_read = frame(TEXT, np.array([3, 1, 3, 0]), np.array([True, True, False, True]), before, after)
    assert tokens.tolist() == expected and tokens.dtype == np.int32
    np.testing.assert_array_equal(is_read, tokens > 0)


def test_examples_are_ended_cut_and_padded():
    tokenizer = LetterTokenizer(())
    task = Seq2Seq(
        TaskInputs(length=3, target_length=2, tokenizer=tokenizer, packing="none", options={"bleu_tokenize": "13a"})
    )
    examples = [task.prepare({"source": source, "target": "x"}, tokenizer) for source in ("ab", "abc")]
    rows, num_cut = pad_examples(task, examples, {"tokens": 29, "target_tokens": 28}, 4)
    assert num_cut == 1
    assert rows["tokens"].tolist() == [[1, 2, 29], [1, 2, 3], [0, 0, 0], [0, 0, 0]]
    assert rows["num_tokens"].tolist() == [3, 3, 0, 0]
    assert rows["target_tokens"].tolist() == [[24, 28], [24, 28], [0, 0], [0, 0]]
    assert rows["num_target_tokens"].tolist() == [2, 2, 0, 0]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A tokenizer of the library with the special tokens, ids and post-processor of RoBERTa, and its file."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(["the ant and the bee met the cat"] * 3, trainer)
    library.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    library.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    path = tmp_path_factory.mktemp("roberta") / "tokenizer.json"
    library.save(str(path))
    return library, path


@pytest.mark.parametrize("text", ["the ant <mask> the cat", "<mask> bee", "the  <mask>", "ant [MASK] cat"])
def test_masked_texts_are_read_as_the_library_reads_them(roberta, text):
    library, path = roberta
    tokenizer = load_tokenizer(path)
    options = {"mask_rate": 0.2, "whole_words": False, "num_candidates": 1}
    task = MaskedLM(TaskInputs(length=20, tokenizer=tokenizer, packing="none", options=options))
    rows, _ = pad_examples(task, [task.prepare_for_predict({"text": text}, tokenizer)], {"tokens": tokenizer.eos_id}, 1)
    batch = task.make_predict_batch(rows)
    expected = library.encode(text.replace("[MASK]", "<mask>")).ids
    assert batch["tokens"][0][batch["attention_mask"][0]].tolist() == expected
    assert expected[0] == 0 and expected[-1] == 2 and library.token_to_id("<mask>") in expected


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_classified_texts_are_read_as_the_library_reads_them(roberta, pooling):
    library, path = roberta
    tokenizer = load_tokenizer(path)
    options = {"kind": "single_label", "pooling": pooling, "class_weights": "none", "label_separator": ","}
    labels = Labels(kind="single_label", num_records=2, names=("a", "b"), counts=(1, 1))
    task = Classification(TaskInputs(length=20, tokenizer=tokenizer, packing="none", labels=labels, options=options))
    rows, _ = pad_examples(task, [task.prepare_for_predict({"text": "the bee met"}, tokenizer)], {}, 1)
    batch = task.make_predict_batch(rows)
    assert batch["tokens"][0][batch["attention_mask"][0]].tolist() == library.encode("the bee met").ids


def test_the_names_of_a_tokenizer_decide():
    assert encoder_frame(["[CLS]", "[SEP]", "<s>", "</s>", "<mask>"]) is BERT_FRAME
    assert encoder_frame(["<s>", "</s>", "<mask>"]) is ROBERTA_FRAME
    assert encoder_frame(["<s>", "</s>"]) is None  # Llama 2
    assert frame_of(["<s>", "</s>"]) is ROBERTA_FRAME  # a sentence encoder may be a decoder
    assert encoder_frame(["</s>"]) is None and frame_of(["</s>"]) is None  # T5
