"""Small BERT for CPUs on Python's standard library: nothing to download, about ten minutes on two cores.

    jaxdp train --config=configs/bert_small_stdlib.py --workdir=runs/bert_small
    jaxdp predict --workdir=runs/bert_small --text='for index, value in enumerate([MASK]):'

A classifier can start from its encoder: configs/classify_quickstart.py with
--config.init_from=runs/bert_small --config.model.num_layers=4 --config.data.length=128.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "masked_lm"
    config.total_steps = 4000  # x 32 sequences x 128 tokens: about five epochs
    config.global_batch_size = 32

    config.data.source = "stdlib"
    config.data.tokenizer = "bpe:8192"
    config.data.length = 128

    config.model.preset = "encoder_nano"
    config.model.dropout_rate = 0.0  # five epochs are too few to overfit

    config.optim.name = "muon"  # learns most from so few steps
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 200

    config.eval.every_steps = 500
    config.eval.num_batches = 50
    config.eval.metric = "eval/accuracy"
    return config
