"""Sentiment of film reviews, a dataset of the Hub (needs network the first time).

    jaxdp prepare --config=configs/imdb.py
    jaxdp train   --config=configs/imdb.py --workdir=runs/imdb
    jaxdp eval    --workdir=runs/imdb

Without network: datasets.load_dataset(...).save_to_disk(FOLDER) on a machine that has
it, then --config.data.path=FOLDER. Not run yet: the Hub was not reachable.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "classification"
    config.total_epochs = 6.0
    config.global_batch_size = 32

    config.data.source = "hf"
    config.data.path = "stanfordnlp/imdb"
    config.data.split = "train"
    config.data.eval_split = "test"
    config.data.cleaning = ("html", "lowercase")  # reviews hold <br /> tags
    config.data.tokenizer = "bpe:16384"
    config.data.length = 512
    config.data.long_documents = "cut"  # one review in seven loses its end
    config.data.augmentation = ("token_dropout:0.15",)

    config.model.preset = "bert_mini"
    config.model.dropout_rate = 0.2

    config.optim.learning_rate = 5e-4
    config.optim.label_smoothing = 0.05
    config.eval.metric = "eval/accuracy"
    return config
