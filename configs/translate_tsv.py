"""Translation from your own pairs, a table with the columns source and target.

    jaxdp train --config=configs/translate_tsv.py --config.data.path=train.tsv --config.data.eval_path=test.tsv --workdir=runs/translate
    jaxdp eval --workdir=runs/translate
    jaxdp predict --workdir=runs/translate --text='Open the file.' --num_beams=4

The file has a header line; name its columns with --config.data.source_column and
--config.data.target_column. Without --config.data.eval_path the last tenth is the validation split.
Two files of lines work as well: --config.data.source=text --config.data.path=train.en
--config.data.target_path=train.de. Tuned for about ten thousand pairs of one domain,
half an hour on two CPU cores.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_epochs = 15.0
    config.global_batch_size = 32

    config.data.source = "csv"
    config.data.path = "train.tsv"
    config.data.cleaning = ("min_chars:1",)
    config.data.tokenizer = "bpe:4096"  # one vocabulary for both languages; few pairs need a small one
    config.data.length = 128
    config.data.packing = "documents"  # four or five pairs in a sequence, without attention between pairs
    config.data.long_documents = "drop"  # a cut pair teaches to stop too early

    config.model.preset = "seq2seq_nano"
    config.model.dropout_rate = 0.2

    config.optim.learning_rate = 1.5e-3
    config.optim.warmup_steps = 300
    config.optim.b2 = 0.98
    config.optim.ema_decay = 0.998
    config.optim.label_smoothing = 0.1

    config.eval.every_steps = 600
    config.eval.metric = "eval/bleu"
    config.eval.num_scored = 150
    config.checkpoint.every_steps = 600
    return config
