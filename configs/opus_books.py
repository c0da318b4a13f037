"""English to French from books, a small dataset of the Hub (needs network the first time).

    jaxdp prepare --config=configs/opus_books.py
    jaxdp train   --config=configs/opus_books.py --workdir=runs/opus_books
    jaxdp predict --workdir=runs/opus_books --text='The house was empty.' --num_beams=4

127,000 pairs; the last tenth is the validation split. Other languages: --config.data.name=de-en
with the columns translation.de and translation.en. Without network:
datasets.load_dataset(...).save_to_disk(FOLDER) on a machine that has it, then
--config.data.path=FOLDER. Not run yet: the Hub was not reachable.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "seq2seq"
    config.total_epochs = 10.0
    config.global_batch_size = 64

    config.data.source = "hf"
    config.data.path = "Helsinki-NLP/opus_books"
    config.data.name = "en-fr"
    config.data.source_column = "translation.en"
    config.data.target_column = "translation.fr"
    config.data.cleaning = ("min_chars:1",)
    config.data.tokenizer = "bpe:8192"  # one vocabulary for both languages
    config.data.length = 128
    config.data.packing = "documents"
    config.data.long_documents = "drop"

    config.model.preset = "seq2seq_nano"
    config.model.dropout_rate = 0.2

    config.optim.label_smoothing = 0.1
    config.optim.ema_decay = 0.999
    config.eval.metric = "eval/bleu"
    config.eval.num_beams = 4
    return config
