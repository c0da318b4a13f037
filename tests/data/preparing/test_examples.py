"""Prepared examples come back as they were written, whatever the shards."""

import numpy as np
import pytest

from jaxdp.data.preparing.examples import Examples, ExamplesWriter

DOCUMENTS = [np.arange(n, dtype=np.int32) + 10 * n for n in (3, 0, 1, 7, 2)]


def write(directory, shard_bytes=1 << 20, terminators=None, dtype=np.uint16):
    writer = ExamplesWriter(directory, dtype, {"tokens": 99} if terminators is None else terminators, shard_bytes)
    for label, tokens in enumerate(DOCUMENTS):
        writer.add({"tokens": tokens, "label": np.int32(label)})
    writer.close()
    return Examples(directory)


@pytest.mark.parametrize("shard_bytes", [1, 8, 1 << 20])
def test_round_trip(tmp_path, shard_bytes):
    examples = write(tmp_path, shard_bytes)
    assert examples.num_examples == 5 and examples.names == ("tokens", "label")
    ragged = examples.ragged("tokens")
    values, lengths = ragged.take(np.arange(5))
    expected = [np.append(tokens, 99) for tokens in DOCUMENTS]
    np.testing.assert_array_equal(values, np.concatenate(expected))
    np.testing.assert_array_equal(lengths, [len(tokens) for tokens in expected])
    assert values.dtype == np.uint16
    np.testing.assert_array_equal(examples.scalars("label"), range(5))
    assert len(list(tmp_path.glob("tokens.0*.bin"))) == {1: 5, 8: 3, 1 << 20: 1}[shard_bytes]


def test_pieces_make_one_document_with_one_end(tmp_path):
    writer = ExamplesWriter(tmp_path, np.uint8, {"tokens": 9}, 4)
    for piece, continues in (([1, 2], True), ([3], True), ([4], False), ([5], False)):
        writer.add({"tokens": np.array(piece)}, continues=continues)
    writer.close()
    values, lengths = Examples(tmp_path).ragged("tokens").take(np.arange(2))
    assert values.tolist() == [1, 2, 3, 4, 9, 5, 9] and lengths.tolist() == [5, 2]


def test_nothing_written_reads_as_nothing(tmp_path):
    ExamplesWriter(tmp_path, np.uint8, {}).close()
    examples = Examples(tmp_path)
    assert examples.num_examples == 0 and examples.names == ()
