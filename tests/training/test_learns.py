"""Whether models learn what they are there for: minutes each, so not among the tests of every day."""

import json
import random
import string

import pytest
from tiny_runs import metrics_lines

from jaxdp.cli.main import main

SYMBOLS = string.ascii_letters + string.digits + "+/"
LENGTH = 20

CONFIG = """
from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_steps = 700
    config.global_batch_size = 64
    config.data.source = "text"
    config.data.path = {root!r} + "/train.source"
    config.data.target_path = {root!r} + "/train.target"
    config.data.eval_path = {root!r} + "/test.source"
    config.data.eval_target_path = {root!r} + "/test.target"
    config.data.tokenizer = "char"
    config.data.length = 24
    config.model.preset = "seq2seq_nano"
    config.model.num_layers = 2
    config.model.embed_dim = 128
    config.model.dropout_rate = 0.0
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 150
    config.eval.num_scored = 1000
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copy", "reverse"])
def test_random_symbols_are_copied_and_reversed(kind, tmp_path, capsys):
    """1,000 held-out texts of 20 symbols out of 64, written whole: nothing but the rule helps."""
    draw = random.Random(0)
    for split, number in (("train", 20_000), ("test", 1_000)):
        texts = ["".join(draw.choices(SYMBOLS, k=LENGTH)) for _ in range(number)]
        targets = [text[::-1] if kind == "reverse" else text for text in texts]
        (tmp_path / f"{split}.source").write_text("\n".join(texts) + "\n")
        (tmp_path / f"{split}.target").write_text("\n".join(targets) + "\n")
    (tmp_path / "config.py").write_text(CONFIG.format(root=str(tmp_path)))
    workdir = tmp_path / "run"
    assert main(["train", f"--config={tmp_path / 'config.py'}", f"--workdir={workdir}", "--cpu_devices=8"]) == 0
    [*_, last] = metrics_lines(workdir, "eval/exact_match")
    assert last["eval/exact_match"] > 0.99
    capsys.readouterr()
    assert (
        main(["predict", f"--workdir={workdir}", f"--text={SYMBOLS[:LENGTH]}", "--num_beams=4", "--cpu_devices=8"]) == 0
    )
    expected = SYMBOLS[:LENGTH][::-1] if kind == "reverse" else SYMBOLS[:LENGTH]
    assert json.loads(capsys.readouterr().out)["text"] == expected
