"""A classifier of your own labelled texts, from scratch: CSV files with the columns label and text. Not tuned yet.

    jaxdp train --config=configs/classify_csv.py --config.data.path=train.csv --config.data.eval_path=test.csv --workdir=runs/classify
    jaxdp eval --workdir=runs/classify
    jaxdp predict --workdir=runs/classify --text='shares fell sharply on Monday'

Without --config.data.eval_path the last tenth is held out: shuffle a file that is
sorted by label. For JSON lines take --config.data.source=jsonl, the rest stays.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "classification"
    config.total_epochs = 5.0
    config.global_batch_size = 32

    config.data.source = "csv"
    config.data.path = "train.csv"
    config.data.tokenizer = "bpe:8192"
    config.data.length = 256
    config.data.long_documents = "cut"  # the start of a long text says what it is about

    config.model.preset = "encoder_nano"
    config.model.num_layers = 2
    config.model.dropout_rate = 0.2

    config.optim.label_smoothing = 0.05
    config.eval.every_steps = 100
    config.eval.metric = "eval/accuracy"
    config.checkpoint.every_steps = 100
    return config
