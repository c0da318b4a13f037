"""GPT-2 small (124 M parameters) from scratch, for one or more accelerators.

    jaxdp train --config=configs/gpt2_small.py --config.data.path=DIR --workdir=runs/gpt2_small

DIR holds train.bin and val.bin, flat uint16 ids of the GPT-2 tokenizer, as
nanoGPT's data/openwebtext/prepare.py writes them.

Source: nanoGPT's config/train_gpt2.py, which reached a validation loss of 2.85
on OpenWebText in four days on eight A100.
Not run to its end: no such machine was available.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    # 480 sequences x 1024 tokens = 491,520 tokens a step; x 600,000 steps = 295 billion tokens.
    config.total_steps = 600_000
    config.global_batch_size = 480
    config.microbatch_size = 12  # sequences that a device processes at once: 5 microbatches on eight devices

    config.data.source = "tokens"
    config.data.path = "data/openwebtext"
    config.data.length = 1024

    config.model.preset = "gpt2"
    config.model.vocab_size = 50304  # 50257, rounded up to a multiple of 128 for the matrix units
    config.model.dropout_rate = 0.0
    config.model.use_bias = False
    # One layer is compiled instead of twelve. False is planned, not measured, to need less memory on an H100 (11.9 instead
    # of 17.3 GiB with 16 sequences), and saves the copies of the scan: 30 % of a measured step (docs/accelerators.md).
    config.model.scan_layers = True

    config.optim.learning_rate = 6e-4
    config.optim.end_learning_rate = 6e-5
    config.optim.warmup_steps = 2000
    config.optim.b2 = 0.95
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0

    config.eval.every_steps = 1000
    config.eval.num_batches = 200
    config.checkpoint.every_steps = 1000
    config.log.every_steps = 10
    return config
