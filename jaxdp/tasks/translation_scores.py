"""Metrics of generated text: BLEU, chrF and exact match (sacrebleu).

sacrebleu computes them over the whole corpus and returns a signature of its
settings, so that results can be compared. It is imported inside functions.
"""

from collections.abc import Sequence

import numpy as np

from jaxdp.errors import UserError
from jaxdp.metrics import MetricSpec
from jaxdp.tasks.task import Summary

SCORE_METRICS = (
    MetricSpec("bleu", "points", True, "corpus BLEU"),
    MetricSpec("chrf", "points", True, "corpus chrF"),
    MetricSpec("exact_match", "", True, "share of texts equal to their reference"),
)


def check_tokenization(name: str) -> None:
    """Checks `seq2seq.bleu_tokenize` before training.

    Raises:
        UserError: sacrebleu has no such tokenization.
    """
    from sacrebleu.metrics.bleu import BLEU

    if name not in BLEU.TOKENIZERS:
        raise UserError(
            f"seq2seq.bleu_tokenize={name!r} is unknown; choose one of: {', '.join(sorted(BLEU.TOKENIZERS))}."
        )


def score_texts(texts: Sequence[str], references: Sequence[str], tokenization: str) -> Summary:
    """Scores a corpus of generated texts.

    Source: Papineni et al. 2002 (BLEU, with the conventions of Post 2018); Popović
    2015 (chrF, order 6, beta 2).

    Args:
        texts: generated texts, at least one.
        references: expected texts, one for each.
        tokenization: name of sacrebleu's tokenization for BLEU: 13a, intl, zh, char, ...

    Returns:
        Metrics `bleu` and `chrf` from 0 to 100, `exact_match` from 0 to 1. Report:
        {"num_examples", "bleu": {"signature", "precisions", "brevity_penalty"},
        "chrf": {"signature"}}.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(tokenize=tokenization), CHRF()
    bleu_score = bleu.corpus_score(texts, [references])
    chrf_score = chrf.corpus_score(texts, [references])
    is_same = [text == reference for text, reference in zip(texts, references, strict=True)]
    metrics = {
        "bleu": float(bleu_score.score),
        "chrf": float(chrf_score.score),
        "exact_match": float(np.mean(is_same)),
    }
    report = {
        "num_examples": len(texts),
        "bleu": {
            "signature": str(bleu.get_signature()),
            "precisions": [float(value) for value in bleu_score.precisions],
            "brevity_penalty": float(bleu_score.bp),
        },
        "chrf": {"signature": str(chrf.get_signature())},
    }
    return Summary(metrics, report)
