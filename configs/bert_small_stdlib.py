"""BERT at a CPU's size on Python's standard library: nothing to download. Not tuned yet.

    jaxdp train --config=configs/bert_small_stdlib.py --workdir=runs/bert_small
    jaxdp predict --workdir=runs/bert_small --text='import[MASK]'
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "masked_lm"
    config.total_steps = 2000
    config.global_batch_size = 32

    config.data.source = "stdlib"
    config.data.tokenizer = "bpe:8192"
    config.data.length = 128

    config.model.preset = "encoder_nano"
    config.eval.metric = "eval/accuracy"
    return config
