"""Messages for texts without tokens: the cure that is advised is one that helps."""

import numpy as np
import pytest

from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.reading.records import Record
from jaxdp.errors import UserError
from jaxdp.tasks import CausalLM, Classification, Labels, Seq2Seq, TaskInputs
from jaxdp.tasks.empty_texts import cure


class Words:
    """A tokenizer of what is between blanks, that knows no word with `x`."""

    special_ids, eos_id, vocab_size = {}, 0, 10

    def encode(self, text):
        return np.array([1 for word in text.split() if "x" not in word], np.int32)

    def token_bytes(self):
        return np.ones(10, np.int32)


OPTIONS = {"kind": "single_label", "pooling": "mean", "class_weights": "none", "label_separator": ","}


def classification():
    labels = Labels(kind="single_label", num_records=2, names=("a", "b"), counts=(1, 1))
    return Classification(TaskInputs(length=8, tokenizer=Words(), packing="none", labels=labels, options=OPTIONS))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"the text is empty, expected some text; leave such records out, with 'min_chars:1' as the last step"),
        (
            "  ",
            r"the text '  ' has no token.*; leave such records out, with 'whitespace' and then 'min_chars:1' as the last steps",
        ),
        (
            "xx",
            r"the text 'xx' has no token.*; leave the record out, or choose a data\.tokenizer that has tokens for it",
        ),
    ],
)
def test_classification(text, told):
    with pytest.raises(UserError, match=told):
        classification().prepare({"text": text, "label": "a"}, Words())
    with pytest.raises(UserError) as refused:  # of a prediction, which data.cleaning does not change
        classification().prepare_for_predict({"text": text}, Words())
    assert "data.cleaning" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "  ", "\n\t "])
def test_the_cleaning_that_is_advised_leaves_the_record_out(text):
    steps = tuple(step for step in ("whitespace", "min_chars:1", "min_chars:2") if f"'{step}'" in cure(text))
    assert steps and Cleaner(steps, ("text",)).clean(Record({"text": text}, "a")) is None


def test_pairs():
    inputs = TaskInputs(length=8, tokenizer=Words(), packing="none", options={"bleu_tokenize": "13a"})
    for record, name in (({"source": "a", "target": ""}, "target"), ({"source": "", "target": "a"}, "source")):
        with pytest.raises(UserError, match=rf"the {name} is empty, expected some text; leave such records out"):
            Seq2Seq(inputs).prepare(record, Words())
    with pytest.raises(UserError) as refused:
        Seq2Seq(inputs).prepare_for_predict({"source": ""}, Words())
    assert str(refused.value) == "the source is empty, expected some text."
    completion = CausalLM(
        TaskInputs(length=8, tokenizer=Words(), packing="none", options={"completion_only": True, "separator": ""})
    )
    with pytest.raises(UserError, match="the target is empty"):
        completion.prepare({"source": "a", "target": ""}, Words())
