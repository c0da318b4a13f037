"""Golden losses: the first 50 steps of a tiny run of every task, against stored values.

A change that is meant to leave training as it is must leave these. On one machine two
commits can be compared bit for bit: `python tests/compare_commits.py A B`. After a change
that is meant, `python tests/test_golden_losses.py` writes the new values.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
from tiers import others_slow
from tiny_runs import compilation_cache, metrics_lines, train
from tiny_tasks_data import CONFIG, write_records

__all__ = ["compilation_cache"]

pytestmark = pytest.mark.optimized

GOLDEN = Path(__file__).with_name("golden_losses.json")

TASKS = {
    "causal_lm": (),
    "masked_lm": ("--config.task=masked_lm",),
    "classification": ("--config.task=classification",),
    "seq2seq": ("--config.task=seq2seq",),
}

OPTIONS = (
    "--config.total_steps=50", "--config.model.dropout_rate=0.1", "--config.microbatch_size=1", "--config.global_batch_size=16",
    "--config.data.tokenizer=char", "--config.eval.every_steps=0", "--config.eval.num_scored=0", "--config.checkpoint.every_steps=0",
)  # fmt: skip

TOLERANCE = 1e-6
"""Relative: instruction sets and versions of JAX round differently."""


def losses(task, directory):
    """The losses of 50 steps."""
    path = directory / "records.jsonl"
    write_records(path)
    (directory / "config.py").write_text(CONFIG.format(path=str(path)))
    assert train(directory / "config.py", directory / task, *OPTIONS, *TASKS[task]) == 0
    return [line["train/loss"] for line in metrics_lines(directory / task)]


@pytest.mark.parametrize("task", others_slow(TASKS, "causal_lm", "masked_lm"))
def test_losses_are_those_that_were_stored(task, tmp_path):
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[task]
    found = losses(task, tmp_path)
    assert len(found) == len(expected) == 50
    assert found == pytest.approx(expected, rel=TOLERANCE)


if __name__ == "__main__":
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    with tempfile.TemporaryDirectory() as directory:
        out.write_text(
            json.dumps({task: losses(task, Path(directory)) for task in TASKS}, indent=1) + "\n", encoding="utf-8"
        )
