"""Padding of ad-hoc examples into batches, for `jaxdp predict` and tests."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdp.tasks.task import Task


def pad_examples(
    task: Task, examples: Sequence[Mapping[str, np.ndarray]], end_ids: Mapping[str, int], num_rows: int
) -> tuple[dict[str, np.ndarray], int]:
    """Pads examples to the arrays that `make_batch` and `make_predict_batch` take.

    Args:
        task: task of the examples; its `eos_fields` and `row_lengths` are used.
        examples: results of `prepare` or `prepare_for_predict`, at least one.
        end_ids: id of the eos token for each of the task's `eos_fields`.
        num_rows: number of rows of the result, at least the number of examples; the
            rows after the examples are padding.

    Returns:
        (arrays [num_rows, ...], number of examples that exceeded the capacity and were cut).
    """
    rows: dict[str, np.ndarray] = {}
    is_cut = np.zeros(len(examples), bool)
    for name in examples[0]:
        if name not in task.row_lengths:
            values = np.stack([example[name] for example in examples])
            rows[name] = np.zeros((num_rows, *values.shape[1:]), values.dtype)
            rows[name][: len(examples)] = values
            continue
        capacity = task.row_lengths[name]
        rows[name], lengths = np.zeros((num_rows, capacity), np.int32), np.zeros(num_rows, np.int32)
        for number, example in enumerate(examples):
            tokens = example[name]
            if name in task.eos_fields:
                tokens = np.append(tokens, end_ids[name])
            is_cut[number] |= len(tokens) > capacity
            lengths[number] = min(len(tokens), capacity)
            rows[name][number, : lengths[number]] = tokens[:capacity]
        rows[f"num_{name}"] = lengths
    return rows, int(is_cut.sum())
