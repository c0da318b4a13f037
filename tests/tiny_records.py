"""Forty records with text, label, source and target, and the configuration keys that read them."""

import json

TEXTS = [f"The  cat number {n} sat on a <b>mat</b>, at http://x.org/{n} & wasn't \u0130dle" for n in range(40)]
JSONL = ("data.source=jsonl", "data.tokenizer=char", "data.length=128")
LABELLED = (*JSONL, "task=classification", "model.preset=encoder_nano")


def write_records(path, texts=TEXTS, num_labels=3):
    """Writes records with the columns of every task."""
    rows = (
        {"text": text, "label": n % num_labels, "source": text, "target": text[::-1]} for n, text in enumerate(texts)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
