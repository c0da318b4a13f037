"""Options of text classification, and the class weights of its loss."""

import dataclasses

import numpy as np

from jaxdp.data.labels import KINDS, Kind, Labels
from jaxdp.errors import UserError
from jaxdp.model import POOLINGS

DEFAULT_POOLING = "mean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationOptions:
    """Keys of `config.classification`.

    Attributes:
        kind: single_label | multi_label | regression.
        pooling: first | mean | last: hidden states that represent the text; None: `DEFAULT_POOLING`.
        class_weights: weight of each label in the loss: none | balanced (rare labels
            count as much as frequent ones) | comma-separated numbers, one a label in the
            order of their names.
        label_separator: string between several labels of one text.

    Raises:
        UserError: A value is out of its range.
    """

    kind: Kind
    pooling: str
    class_weights: str
    label_separator: str

    def __post_init__(self):
        if self.pooling is None:
            object.__setattr__(self, "pooling", DEFAULT_POOLING)
        for key, choices in (("kind", KINDS), ("pooling", POOLINGS)):
            if getattr(self, key) not in choices:
                raise UserError(
                    f"classification.{key}={getattr(self, key)!r} is unknown; choose one of: {', '.join(choices)}."
                )
        if not self.label_separator:
            raise UserError("classification.label_separator is empty; expected a string such as ',' or '|'.")
        if self.kind == "regression" and self.class_weights != "none":
            raise UserError(
                f"classification.class_weights={self.class_weights!r} does not apply to "
                "classification.kind=regression, which has no classes; set it to none."
            )


def class_weights(options: ClassificationOptions, labels: Labels) -> np.ndarray:
    """Returns the weight of each label in the loss.

    single_label: the weight of an example; with `balanced` its mean over the training
    records is 1, so that the learning rate keeps its meaning. multi_label: the weight of
    having a label relative to not having it; `balanced` gives both the same sum.

    Returns:
        [num_labels] float32; [1] for regression.

    Raises:
        UserError: The configured weights are not numbers of 0 or more, one a label.
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
            f"classification.class_weights={options.class_weights!r} is invalid; expected none, "
            f"balanced or {len(counts)} comma-separated numbers of 0 or more, for {', '.join(labels.names)}."
        )
    return weights.astype(np.float32)
