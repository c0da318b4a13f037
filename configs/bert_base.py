"""BERT base on your own text, for accelerators. Not tuned, and not run to its end.

    jaxdp train --config=configs/bert_base.py --config.data.path='corpus/*.txt' --workdir=runs/bert_base

Optimizer as Devlin et al. 2019, appendix A.2: batches of 256, learning rate 1e-4
after 10,000 steps of warm-up, 1,000,000 steps. Differs: no next-sentence task.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "masked_lm"
    config.total_steps = 1_000_000
    config.global_batch_size = 256

    config.data.source = "text"
    config.data.path = "corpus"
    config.data.tokenizer = "wordpiece:30522"
    config.data.length = 512

    config.model.preset = "bert_base"

    config.optim.learning_rate = 1e-4
    config.optim.schedule = "linear"
    config.optim.warmup_steps = 10_000
    config.optim.weight_decay = 0.01
    config.optim.b2 = 0.999

    config.eval.every_steps = 5000
    config.checkpoint.every_steps = 5000
    return config
