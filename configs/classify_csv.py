"""A text classifier on your own CSV files with the columns label and text, from scratch.

    jaxdp train --config=configs/classify_csv.py --config.data.path=train.csv --config.data.eval_path=test.csv --workdir=runs/classify
    jaxdp eval --workdir=runs/classify
    jaxdp plot runs/classify
    jaxdp predict --workdir=runs/classify --text='shares fell sharply on Monday'

Without --config.data.eval_path the validation split is a tenth of each label, whatever the
order of the file. --config.data.source=jsonl reads JSON lines.
Tuned for several thousand texts of a hundred words, three and a half minutes on two CPU
cores; there lower case and token dropout improve accuracy most. Longer texts are cut at the end;
--config.data.length=512 reads more of them.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "classification"
    config.total_epochs = 15.0
    config.global_batch_size = 32

    config.data.source = "csv"
    config.data.path = "train.csv"
    config.data.eval_selection = "stratified"  # a share of each label; the tail of a file sorted by label lacks some
    config.data.cleaning = ("lowercase",)
    config.data.tokenizer = "bpe:8192"
    config.data.length = 128
    config.data.long_documents = "cut"  # the start of a long text usually states its topic
    config.data.augmentation = ("token_dropout:0.3",)  # no single word decides

    config.model.preset = "encoder_nano"
    config.model.num_layers = 2
    config.model.dropout_rate = 0.2

    config.optim.learning_rate = 1.5e-3
    config.optim.label_smoothing = 0.05
    config.optim.ema_decay = 0.995
    config.eval.every_steps = 200
    config.eval.metric = "eval/accuracy"
    config.checkpoint.every_steps = 200
    return config
