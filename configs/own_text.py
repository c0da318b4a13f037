"""A GPT of ten million parameters on your own text, with a vocabulary of its own.

    jaxdp prepare --config=configs/own_text.py --config.data.path=FOLDER --dry_run
    jaxdp train   --config=configs/own_text.py --config.data.path=FOLDER --workdir=runs/own_text

FOLDER may also be a file, a glob such as 'books/**/*.txt', or a URL, compressed
(.gz, .zst, .xz) or not. About 5 MB of text is enough to imitate its style.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_epochs = 4.0
    config.global_batch_size = 32

    config.data.source = "text"  # one document per file
    config.data.path = "data/text"
    config.data.cleaning = ("unicode:NFC", "control", "whitespace")
    config.data.tokenizer = "bpe:8192"  # trained on the training split, once
    config.data.length = 256

    config.model.preset = "llama_nano"
    config.model.num_layers = 6
    config.model.num_heads = 6
    config.model.num_kv_heads = 2
    config.model.embed_dim = 384
    config.model.mlp_dim = 1024
    config.model.dropout_rate = 0.1  # little text, read in several epochs

    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 100
    return config
