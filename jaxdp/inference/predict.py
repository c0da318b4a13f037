"""Prediction for a list of records, from Python."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxdp.arguments import as_list, check_caller, check_type, optional_number, whole_number
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling
from jaxdp.decoding.strategy import DecodingStrategy
from jaxdp.inference.prediction_requests import raw_records
from jaxdp.inference.predictor import Predictor
from jaxdp.inference.restored_model import RestoredModel, restored_model


class PredictionRequest(NamedTuple):
    """Checked arguments of a prediction.

    Attributes:
        records: Records as given.
        options: Keyword arguments of `Predictor`.
    """

    records: list[str | Mapping[str, Any]]
    options: dict[str, Any]


def prediction_request(
    records: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
    strategy: DecodingStrategy | None,
    num_samples: int,
    seed: int,
    num_candidates: int | None,
) -> PredictionRequest:
    """Checks the arguments of a prediction, before anything is read.

    Raises:
        UserError: An argument is of another type.
    """
    records = as_list("records", records, (str, Mapping), "a string or a mapping of columns")
    options = {
        "strategy": strategy,
        "num_samples": whole_number("num_samples", num_samples),
        "seed": whole_number("seed", seed),
        "num_candidates": optional_number("num_candidates", num_candidates),
    }
    check_type("strategy", strategy, (BeamSearch, Sampling, type(None)), "a Sampling, a BeamSearch or None")
    return PredictionRequest(records, options)


def predict_records(restored: RestoredModel, request: PredictionRequest) -> list[dict[str, Any]]:
    """Answers records with a model; see `predict`."""
    predictor = Predictor(restored, **request.options)
    answers = list(predictor(raw_records(request.records)))
    predictor.report()
    return answers


def predict(
    workdir: str | os.PathLike[str],
    records: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
    *,
    strategy: DecodingStrategy | None = None,
    num_samples: int = 1,
    seed: int = 0,
    num_candidates: int | None = None,
    step: str | int = "latest",
    weights: str = "ema",
    cpu_devices: int | None = None,
    sync: str | None = None,
) -> list[dict[str, Any]]:
    """Answers records, which are spread over all devices.

    Args:
        workdir: Work directory of the run.
        records: Texts, or dicts that have the column of the run's data; or one of them.
        strategy: See `Predictor`, as for the others.
        num_samples: Number of texts that are sampled for each record.
        seed: Seed of the sampling.
        num_candidates: Tokens for each mask, of masked language modelling.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake.
        sync: Layout of the parameters: pmean replicates them, zero3 shards them over the devices; None: that of the run.

    Returns:
        One answer a record. Of a classifier {"label", "probabilities"}; of masked language modelling
        {"candidates"}; of sequence to sequence {"text", "score", "log_probability", "finished"}, with
        `alternatives`, a list of the same, where several were requested. The other fields of the record are in
        it too, as `input_NAME` where the answer needs the name. A record that cannot be used has {"error"} instead.

    Raises:
        UserError: There is no run, no checkpoint or no record, or the run's task does not predict.
    """
    check_caller("jaxdp.predict")
    request = prediction_request(records, strategy, num_samples, seed, num_candidates)
    return predict_records(restored_model(workdir, step, weights, cpu_devices, sync), request)
