"""English to German at the size of the paper: WMT 2014 from the Hub, for accelerators.

    jaxdp prepare --config=configs/wmt_en_de.py
    jaxdp train   --config=configs/wmt_en_de.py --workdir=runs/wmt_en_de
    jaxdp eval    --workdir=runs/wmt_en_de

Vaswani et al. 2017, section 5: base model, 100,000 updates of about 25,000 source and
25,000 target tokens (here 200 packed sequences of 128 each), Adam with b2 = 0.98, 4,000 steps
of warm-up, then the inverse root of the step; dropout 0.1, label smoothing 0.1. Not run
yet: neither the Hub nor an accelerator was available.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_steps = 100_000
    config.global_batch_size = 200

    config.data.source = "hf"
    config.data.path = "wmt/wmt14"
    config.data.name = "de-en"
    config.data.split = "train"
    config.data.eval_split = "validation"
    config.data.source_column = "translation.en"
    config.data.target_column = "translation.de"
    config.data.cleaning = ("min_chars:1",)
    config.data.tokenizer = "bpe:37000"  # of both languages together
    config.data.length = 128
    config.data.packing = "documents"
    config.data.long_documents = "drop"

    config.model.preset = "transformer_base"

    config.optim.name = "adam"
    config.optim.learning_rate = 7e-4  # what the paper's schedule reaches at step 4,000
    config.optim.schedule = "rsqrt"
    config.optim.warmup_steps = 4000
    config.optim.b2 = 0.98
    config.optim.eps = 1e-9
    config.optim.label_smoothing = 0.1
    config.optim.ema_decay = 0.999  # in place of the paper's mean of the last checkpoints

    config.eval.every_steps = 5000
    config.eval.metric = "eval/bleu"
    config.eval.num_scored = 1000
    config.eval.num_beams = 4
    config.checkpoint.every_steps = 5000
    return config
