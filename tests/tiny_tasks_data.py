"""Records that every task can read, and a configuration of seconds for them."""

import json
import random

CONFIG = """
from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 6
    config.global_batch_size = 8
    config.data.source = "jsonl"
    config.data.path = {path!r}
    config.data.length = 24
    config.model.num_layers = 1
    config.model.num_heads = 2
    config.model.embed_dim = 16
    config.optim.warmup_steps = 2
    config.parallel.cpu_devices = 8
    config.eval.every_steps = 3
    config.eval.num_scored = 6
    config.checkpoint.every_steps = 3
    config.log.every_steps = 1
    return config
"""

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox")
LABELS = ("ale", "milk", "tea")


def write_records(path):
    drawn = random.Random(0)
    with open(path, "w") as file:
        for number in range(90):
            words = drawn.choices(WORDS[number % 3 * 2 :][:2], k=3)
            record = {"text": " ".join(words), "label": LABELS[number % 3]}
            record |= {"labels": sorted(set(words)), "number": len(set(words)) / 2 + number % 3}
            record |= {"source": " ".join(words), "target": " ".join(reversed(words))}
            file.write(json.dumps(record) + "\n")
