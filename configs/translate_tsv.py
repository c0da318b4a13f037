"""Translation from your own pairs: a table with the columns source and target. Not tuned yet.

    jaxdp train --config=configs/translate_tsv.py --config.data.path=pairs.csv --workdir=runs/translate
    jaxdp predict --workdir=runs/translate --text='Open the file.' --num_beams=4

The file has a header line; name its columns with --config.data.source_column and
--config.data.target_column. Held out is the last tenth, or --config.data.eval_path=FILE.

Two files instead, line N of one with line N of the other: --config.data.source=text
--config.data.path=train.en --config.data.target_path=train.de, and likewise
--config.data.eval_path and --config.data.eval_target_path.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_epochs = 10.0
    config.global_batch_size = 32

    config.data.source = "csv"
    config.data.path = "pairs.csv"
    config.data.tokenizer = "bpe:8192"  # of both languages together
    config.data.length = 96
    config.data.long_documents = "drop"  # a pair that is cut teaches to stop too early
    config.data.cleaning = ("min_chars:1",)

    config.model.preset = "seq2seq_nano"

    config.optim.label_smoothing = 0.1
    config.eval.metric = "eval/bleu"
    return config
