"""JSON lines with packing: several whole documents in a sequence, without attention between documents.

    jaxdp train --config=configs/jsonl_documents.py --config.data.path='data/*.jsonl.zst' --workdir=runs/jsonl

One JSON object per line, with its text under "text" (or --config.data.text_column=NAME).
--config.data.source=csv or parquet reads tables.
"""

from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_epochs = 1.0
    config.global_batch_size = 32

    config.data.source = "jsonl"  # or csv, parquet
    config.data.path = "data/*.jsonl"
    config.data.text_column = "text"
    config.data.cleaning = ("unicode:NFC", "control", "min_chars:20", "deduplicate")
    config.data.tokenizer = "bpe:16384"
    config.data.length = 512
    config.data.packing = "documents"
    config.data.long_documents = "cut"  # cuts documents longer than a sequence into pieces; or error, drop

    config.model.preset = "llama_nano"
    return config
