"""A few examples as padded rows, without a cache: what is asked of a model by hand."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdp.tasks.task import Task


def pad_examples(
    task: Task, examples: Sequence[Mapping[str, np.ndarray]], end_ids: Mapping[str, int], num_rows: int
) -> tuple[dict[str, np.ndarray], int]:
    """Examples as the rows that `make_batch` and `make_predict_batch` take.

    Args:
        task: says which arrays end with end of text, and how many places they have.
        examples: from `prepare` or `prepare_for_predict`, one or more.
        end_ids: end of text, for each array that the task terminates.
        num_rows: of the result, at least as many as examples; the others are padding.

    Returns:
        (arrays [num_rows, ...], how many examples had more tokens than places and were cut).
    """
    rows: dict[str, np.ndarray] = {}
    is_cut = np.zeros(len(examples), bool)
    for name in examples[0]:
        if name not in task.row_lengths:
            values = np.stack([example[name] for example in examples])
            rows[name] = np.zeros((num_rows, *values.shape[1:]), values.dtype)
            rows[name][: len(examples)] = values
            continue
        places = task.row_lengths[name]
        rows[name], lengths = np.zeros((num_rows, places), np.int32), np.zeros(num_rows, np.int32)
        for number, example in enumerate(examples):
            tokens = example[name]
            if name in task.eos_fields:
                tokens = np.append(tokens, end_ids[name])
            is_cut[number] |= len(tokens) > places
            lengths[number] = min(len(tokens), places)
            rows[name][number, : lengths[number]] = tokens[:places]
        rows[f"num_{name}"] = lengths
    return rows, int(is_cut.sum())
