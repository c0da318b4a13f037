"""From the code of a function to its name: a small encoder-decoder on Python's standard library, nothing to download. Not tuned yet.

    jaxdp train --config=configs/translate_quickstart.py --workdir=runs/translate_quickstart
    jaxdp eval --workdir=runs/translate_quickstart
    jaxdp predict --workdir=runs/translate_quickstart --text='def _(self): return len(self.items) == 0' --num_beams=4

A source is the code of a function or method without its docstring and with `_` for its name
(write it like that to `predict`); the target is the name in words: `_parse_header` is "parse header".
Held out are whole files, of the packages that are trained on too, whose habits help. Many names
could as well be others: the share that is met exactly (eval/exact_match) was 0.03 in its one run so far.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_epochs = 5.0
    config.global_batch_size = 32

    config.data.source = "stdlib"
    config.data.cleaning = ("deduplicate",)  # a function that was copied would be in both parts
    config.data.tokenizer = "bpe:4096"
    config.data.length = 128
    config.data.target_length = 16
    config.data.long_documents = "cut"  # the start of a long function says much of what it does

    config.model.preset = "seq2seq_nano"
    config.model.num_layers = 2
    config.model.embed_dim = 192

    config.optim.label_smoothing = 0.1
    config.eval.every_steps = 500
    config.eval.metric = "eval/exact_match"
    return config
