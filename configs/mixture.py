"""Mixture of three parts prose and one part code, in exact proportions independent of their sizes.

    jaxdp train --config=configs/mixture.py --workdir=runs/mixture \\
        --config.data.mixture='({"source": "text", "path": "books", "weight": 3.0}, {"source": "stdlib", "weight": 1.0})'

Entries take every key of config.data that describes a source (path, split, text_column, ...).
Without weights, shares follow the sizes: (number of sequences) ^ (1 / data.temperature).
metrics.jsonl has the share of each source as data/share/<name>.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 2000
    config.global_batch_size = 32

    config.data.mixture = (
        {"source": "text", "path": "data/text", "weight": 3.0},
        {"source": "stdlib", "weight": 1.0},
    )
    config.data.tokenizer = "bpe:8192"  # one vocabulary, trained on all sources
    config.data.length = 256

    config.model.preset = "llama_nano"
    return config
