"""Task registry: importing this package registers the built-in tasks."""

from jaxdp.data.labels import LabelCensus, Labels, load_labels
from jaxdp.metrics import MetricSpec
from jaxdp.model.cross_entropy import cross_entropy_sums
from jaxdp.tasks.causal_lm import CausalLM
from jaxdp.tasks.classification import Classification
from jaxdp.tasks.embedding import Embedding
from jaxdp.tasks.framing import MASK
from jaxdp.tasks.masked_lm import MaskedLM
from jaxdp.tasks.requests import pad_examples
from jaxdp.tasks.seq2seq import Seq2Seq
from jaxdp.tasks.task import (
    LossSums,
    Summary,
    Task,
    TaskInputs,
    declared_metrics,
    register_task,
    registered_tasks,
)

register_task("causal_lm", CausalLM)
register_task("masked_lm", MaskedLM)
register_task("classification", Classification)
register_task("seq2seq", Seq2Seq)
register_task("embedding", Embedding)

__all__ = [
    "MASK",
    "CausalLM",
    "Classification",
    "Embedding",
    "LabelCensus",
    "Labels",
    "LossSums",
    "MaskedLM",
    "MetricSpec",
    "Seq2Seq",
    "Summary",
    "Task",
    "TaskInputs",
    "cross_entropy_sums",
    "declared_metrics",
    "load_labels",
    "pad_examples",
    "register_task",
    "registered_tasks",
]
