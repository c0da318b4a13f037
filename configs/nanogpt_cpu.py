"""nanoGPT's CPU recipe: tinyshakespeare by character, a 0.8 M parameter GPT.

    curl --create-dirs --output data/tinyshakespeare.txt \\
        https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    jaxdp train --config=configs/nanogpt_cpu.py --workdir=runs/nanogpt_cpu

If the file is elsewhere: --config.data.path=FILE. docs/benchmarks.md compares loss and
speed with those of nanoGPT.

Source: https://github.com/karpathy/nanoGPT, README, "I only have a macbook".
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 2000
    config.global_batch_size = 12  # x 64 tokens = 768 tokens a step, 1.5 epochs in all

    config.data.source = "text"
    config.data.path = "data/tinyshakespeare.txt"
    config.data.tokenizer = "char"
    config.data.length = 64
    config.data.eval_fraction = 0.1  # the last tenth, as in nanoGPT's prepare.py

    config.model.preset = "nano"  # 4 layers, 4 heads, 128 wide, no biases, no dropout

    config.optim.learning_rate = 1e-3
    config.optim.end_learning_rate = 1e-4
    config.optim.warmup_steps = 100
    config.optim.b2 = 0.99  # few tokens per step need a longer average of the second moment
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0

    config.eval.every_steps = 500
    config.checkpoint.every_steps = 500
    return config
