"""Special tokens around texts of unequal length."""

import numpy as np
import pytest
from tiny_tokenizer import LetterTokenizer

from jaxdp.tasks import Seq2Seq, TaskInputs, pad_examples
from jaxdp.tasks.framing import frame

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
