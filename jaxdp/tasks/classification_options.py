"""Options of text classification, and the class weights that they ask for."""

import dataclasses

import numpy as np

from jaxdp.data.labels import KINDS, Kind, Labels
from jaxdp.errors import UserError
from jaxdp.model import POOLINGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationOptions:
    """The keys of `config.classification`.

    Attributes:
        kind: single_label | multi_label | regression.
        pooling: first | mean | last: which hidden states stand for the text.
        class_weights: how much each label counts in the loss: none | balanced (rare
            labels as much as frequent ones) | numbers with commas, one a label in the
            order of their names.
        label_separator: between several labels of one text.

    Raises:
        UserError: a value is out of its range.
    """

    kind: Kind
    pooling: str
    class_weights: str
    label_separator: str

    def __post_init__(self):
        for key, choices in (("kind", KINDS), ("pooling", POOLINGS)):
            if getattr(self, key) not in choices:
                raise UserError(
                    f"classification.{key}={getattr(self, key)!r} is unknown; choose one of: {', '.join(choices)}."
                )
        if not self.label_separator:
            raise UserError("classification.label_separator is empty; expected a text such as ',' or '|'.")
        if self.kind == "regression" and self.class_weights != "none":
            raise UserError(
                f"classification.class_weights={self.class_weights!r} does not serve "
                "classification.kind=regression, which has no classes; set it to none."
            )


def class_weights(options: ClassificationOptions, labels: Labels) -> np.ndarray:
    """What each label counts in the loss.

    Of single labels the weight of an example, whose mean over the training records
    is 1 if `balanced`, so that the learning rate keeps its meaning. Of several labels
    what having one counts against not having it; `balanced` gives both the same sum.

    Returns:
        [num_labels] float32; [1] for numbers.

    Raises:
        UserError: given weights that are none, or not one a label.
    """
    counts = np.array(labels.counts or (1,), np.float64)
    if options.class_weights == "none":
        return np.ones(len(counts), np.float32)
    if options.class_weights == "balanced":
        if options.kind == "single_label":
            weights = counts.sum() / (len(counts) * counts)
        else:
            weights = np.maximum(labels.num_records - counts, 1) / counts
        return weights.astype(np.float32)
    try:
        weights = np.array([float(weight) for weight in options.class_weights.split(",")])
    except ValueError:
        weights = np.zeros(0)
    if len(weights) != len(counts) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise UserError(
            f"classification.class_weights={options.class_weights!r} is not understood; expected none, "
            f"balanced or {len(counts)} numbers of 0 or more with commas, for {', '.join(labels.names)}."
        )
    return weights.astype(np.float32)
