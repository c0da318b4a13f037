"""A small GPT on the source code of the running Python: no download, about two minutes on two cores.

    bash launch/local.sh                     # makes the environment and runs this
    jaxdp train --config=configs/quickstart.py --workdir=runs/quickstart
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 800  # x 32 sequences x 128 bytes = 3.3 MB read
    config.global_batch_size = 32

    config.data.source = "stdlib"  # about 12 MB of Python; a tenth of the files is the validation split
    config.data.tokenizer = "byte"
    config.data.length = 128

    config.model.preset = "llama_nano"

    config.optim.name = "muon"  # learns most from so few steps
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 50

    config.eval.every_steps = 400
    config.eval.num_batches = 50  # while training; `jaxdp eval` measures the whole split
    config.checkpoint.every_steps = 400
    return config
