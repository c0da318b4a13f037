"""nanoGPT's CPU recipe by the shortest way: its validation loss after 180 steps of two layers, where nanoGPT takes 2,000 of four.

    jaxdp train --config=configs/speedrun_cpu.py --config.data.path=FILE --workdir=runs/speedrun_cpu

configs/nanogpt_cpu.py says where the text is from. docs/benchmarks.md, "Time to loss", has the losses, the time against
nanoGPT's, and what each option gains with its spread over seeds.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 180
    config.global_batch_size = 24  # x 64 characters: twice nanoGPT's, because orthogonalising costs the same for any batch

    config.data.source = "text"
    config.data.path = "data/tinyshakespeare.txt"
    config.data.tokenizer = "char"
    config.data.length = 64
    config.data.eval_fraction = 0.1  # the last tenth, as in nanoGPT's prepare.py

    config.model.preset = "nano"  # 4 heads, 128 wide
    config.model.num_layers = 2  # half of the time of a step; four layers learn little more from so few
    config.model.positions = "rotary"
    config.model.attention_window = 16  # what is near matters first
    config.model.activation = "relu2"
    config.model.norm = "rmsnorm"
    config.model.qk_norm = True  # and with it twice the learning rate
    config.model.residual_scalars = True
    config.model.value_embeddings = True

    config.optim.name = "normuon"
    config.optim.learning_rate = 4e-2
    config.optim.warmup_steps = 10
    config.optim.schedule = "linear"  # to 0
    config.optim.b2 = 0.99  # as in configs/nanogpt_cpu.py
    config.optim.cautious = True
    config.optim.weight_decay_end = 0.0

    config.eval.every_steps = 0  # at the end only
    config.checkpoint.every_steps = 0
    config.log.every_steps = 50
    return config
