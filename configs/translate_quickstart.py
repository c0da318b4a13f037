"""Decompiler as sequence-to-sequence task: CPython instructions to a line of Python, from the standard library; nothing to download.

    jaxdp train --config=configs/translate_quickstart.py --workdir=runs/translate_quickstart
    jaxdp eval --workdir=runs/translate_quickstart
    jaxdp predict --workdir=runs/translate_quickstart --text='LOAD_FAST self; LOAD_ATTR items; LOAD_CONST 0; BINARY_SUBSCR; RETURN_VALUE'

A source is the instructions of a line, as the module `dis` prints them; the target is the line, here
`return self.items[0]`. It generates 0.835 of the lines of validation files exactly, after seven minutes
on two CPU cores. Instruction names depend on the Python version: for --text, join the output of
`python -m dis FILE` with `; `.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_epochs = 4.0
    config.global_batch_size = 32

    config.data.source = "stdlib"
    config.data.cleaning = ("deduplicate",)  # otherwise lines that many files share would be in both splits
    config.data.tokenizer = "bpe:1024"  # spells out unseen names; few tokens are learned quickly
    config.data.length = 128
    config.data.target_length = 64
    config.data.packing = "documents"  # lines are short
    config.data.long_documents = "drop"

    config.model.preset = "seq2seq_nano"
    config.model.num_layers = 2
    config.model.embed_dim = 192

    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 200
    config.optim.b2 = 0.98
    config.optim.ema_decay = 0.99
    config.optim.label_smoothing = 0.1
    config.eval.every_steps = 500
    config.eval.metric = "eval/exact_match"
    return config
