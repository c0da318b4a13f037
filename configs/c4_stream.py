"""C4 streamed from the Hub while training runs: nothing is kept on disk (needs network).

    jaxdp train --config=configs/c4_stream.py --workdir=runs/c4

The seed determines the order of the files; records keep the order of their file, and
resuming is exact. data.shuffle_buffer=N shuffles within N records and makes resuming
inexact, which the run reports. Local .parquet or .jsonl files stream as well:
--config.data.path='data/*.parquet'. Not run yet: the Hub was not reachable.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_tokens = 1e9  # a stream has no epochs to count
    config.global_batch_size = 256
    config.microbatch_size = 16

    config.data.source = "hf_stream"
    config.data.path = "allenai/c4"
    config.data.name = "en"
    config.data.split = "train"
    config.data.eval_split = "validation"
    config.data.tokenizer = "hf:gpt2"  # a stream cannot train a tokenizer
    config.data.length = 1024

    config.model.preset = "gpt2"
    config.model.dropout_rate = 0.0
    config.model.scan_layers = True

    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 500
    config.eval.num_batches = 20  # these batches of the validation split are kept in memory
    return config
