"""Loaded model: a checkpoint kept on the devices for generation, prediction, evaluation and logits."""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.arguments import WEIGHTS, check_caller, check_choice, check_sync, optional_number, step_name
from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.checkpoint.remote_copy import local_copy
from jaxdp.decoding.strategy import DecodingStrategy
from jaxdp.errors import UserError
from jaxdp.inference.apply import logits_of
from jaxdp.inference.encode import encode_texts
from jaxdp.inference.evaluate import evaluation_request, measure, save_report
from jaxdp.inference.generate import (
    DEFAULT_SAMPLING,
    Sample,
    generate_samples,
    generation_request,
)
from jaxdp.inference.predict import predict_records, prediction_request
from jaxdp.inference.restored_model import RestoredModel
from jaxdp.inference.trained_run import open_run
from jaxdp.parallel.devices import check_settings
from jaxdp.paths import resolved_path


class LoadedModel(RestoredModel):
    """Model of a checkpoint, kept on the devices with its compiled programs; `jaxdp.load` makes it.

    A program is compiled at the first call of a shape and kept for the life of the object. Calls
    from several threads take turns.

    Attributes:
        params: Parameters in their true shapes, nested dicts of `jax.Array`, float32; replicated, or with zero3 sharded.
        tokenizer: Tokenizer of the run; None where it was trained on ready-made tokens.
        config: Configuration of the run, a frozen `RunConfig`.
        task: Task with the vocabularies of the run.
        model: Flax module, for use in other JAX code: `model.model.apply({"params": model.params}, tokens)`.
        topology: Devices.
        num_parameters: Number of trainable parameters; a tied embedding counts once.
    """

    def __init__(self, *arguments: Any, **options: Any):
        """Creates the object; see `RestoredModel`."""
        super().__init__(*arguments, **options)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return (
            f"<LoadedModel of {self.run.checkpoint}: task={self.config.task}, {self.num_parameters:,} parameters, "
            f"{self.topology.num_devices} x {self.topology.kind}>"
        )

    def apply(self, tokens: Any, **model_inputs: Any) -> jax.Array:
        """Computes logits, without dropout.

        Args:
            tokens: `[rows, length]` token ids, of an encoder-decoder those of the source.
            **model_inputs: Further inputs of `Transformer.__call__` as arrays of as many rows: `positions`,
                `segment_ids`, `attention_mask`, `token_types`, `target_tokens`, `target_positions`,
                `target_segment_ids`, `predict_at`.

        Returns:
            `[rows, length, vocab_size] float32` of a language model (of an encoder-decoder for each target
            token, with `predict_at` for each of its positions), `[rows, num_labels] float32` of a classifier.

        Raises:
            UserError: An input is of another type or shape, or longer than the model's positions.
        """
        with self._exclusively():
            return logits_of(self, tokens, model_inputs)

    def generate(
        self,
        prompts: str | Iterable[str],
        *,
        max_new_tokens: int | None = None,
        strategy: DecodingStrategy = DEFAULT_SAMPLING,
        num_samples: int = 1,
        seed: int = 0,
    ) -> list[Sample]:
        """Continues each prompt `num_samples` times, the rows spread over all devices; see `jaxdp.generate`.

        Args:
            prompts: Prompts that fit the context, or one prompt; "" begins a new document.
            max_new_tokens: Largest number of tokens of one continuation; None: 256, of a beam search no more
                than the context has room for.
            strategy: `Sampling`, or a `BeamSearch` for the best continuations.
            num_samples: Number of continuations of each prompt: sample i has seed + i.
            seed: Seed of the first sample of each prompt.

        Returns:
            Samples of the first prompt, of the second, and so on.

        Raises:
            UserError: The task continues no prompts, or a prompt is too long or cannot be expressed.
        """
        request = generation_request(prompts, max_new_tokens, strategy, num_samples, seed)
        with self._exclusively():
            return generate_samples(self, request)

    def predict(
        self,
        records: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
        *,
        strategy: DecodingStrategy | None = None,
        num_samples: int = 1,
        seed: int = 0,
        num_candidates: int | None = None,
    ) -> list[dict[str, Any]]:
        """Answers records, which are spread over all devices; see `jaxdp.predict`.

        Args:
            records: Texts, or dicts that have the column of the run's data; or one of them.
            strategy: Decoding strategy of tasks that generate texts; None: greedy.
            num_samples: Number of texts that are sampled for each record.
            seed: Seed of the first sample of each record.
            num_candidates: Number of tokens for each mask, of masked language modelling; None: that of the run.

        Returns:
            One answer a record, in order.

        Raises:
            UserError: There is no record, or the run's task does not predict.
        """
        request = prediction_request(records, strategy, num_samples, seed, num_candidates)
        with self._exclusively():
            return predict_records(self, request)

    def encode(
        self, texts: str | Iterable[str], *, pooling: str | None = None, normalize: bool | None = None
    ) -> np.ndarray:
        """Computes a vector of each text from the final hidden states, the rows spread over all devices.

        Texts are framed by the special tokens of the tokenizer, and cut to `embedding.max_length` tokens, or `data.length`
        where it is unset.

        Args:
            texts: Texts, or one text.
            pooling: "mean" over the tokens, "cls" (the first token) or "last"; None: `embedding.pooling`, of an
                imported sentence encoder its own.
            normalize: Whether vectors have length 1; None: `embedding.normalize`, of an imported one its own.

        Returns:
            `[num_texts, embed_dim] float32`.

        Raises:
            UserError: The model has no tokenizer, or a text cannot be read.
        """
        with self._exclusively():
            return encode_texts(self, texts, pooling, normalize)

    def evaluate(
        self, data: Mapping[str, Any] | None = None, *, split: str = "eval", num_batches: int | None = None
    ) -> dict[str, Any]:
        """Evaluates the model on the whole of a split; see `jaxdp.evaluate`.

        Args:
            data: Keys of `config.data` that name other data of the same kind, e.g. {"eval_path": "test.csv"}.
            split: train, eval or test (`data.test_path` or `data.test_split`).
            num_batches: Number of batches to measure, from the first; None: the whole split.

        Returns:
            {"step", "split", "eval/num_examples", "eval/loss", ...}, as `jaxdp eval --json` prints it.

        Raises:
            UserError: The data is not what the run was trained with, or `global_batch_size` does not divide over the
                devices.
        """
        request = evaluation_request(split, num_batches, data)
        with self._exclusively():
            evaluation = measure(self, request)
        save_report(evaluation, self.run.directory.root)
        return evaluation.result

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Lets one thread at a time use the devices, and checks JAX settings that the caller may have changed."""
        check_settings()
        with self._lock:
            yield


def load(
    path: str | os.PathLike[str],
    *,
    step: str | int = "latest",
    weights: str = "ema",
    cpu_devices: int | None = None,
    sync: str | None = None,
) -> LoadedModel:
    """Loads the model of a checkpoint onto the devices.

    Args:
        path: Work directory of a run, or a checkpoint in it.
        step: latest, best or a number; of work directories only.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake; None: all devices that exist, or if JAX has not started the
            largest number of CPU devices, up to the number of cores, that divides `global_batch_size`.
        sync: Layout of the parameters: pmean replicates them, zero3 shards them over the devices; None: that of the run.

    Raises:
        UserError: There is no run or no such checkpoint, or JAX has started with another number of devices.
        DamageFound: The checkpoint, a tokenizer or the labels are not what was written.
    """
    check_caller("jaxdp.load")
    step, cpu_devices = step_name(step), optional_number("cpu_devices", cpu_devices)
    check_choice("weights", weights, WEIGHTS)
    check_sync(sync)
    directory = resolved_path(local_copy(path, "path"), "path")
    if read_manifest(directory) is not None:
        if step not in ("latest", directory.name):
            raise UserError(
                f"path={path} is a checkpoint, so step={step} means nothing: leave it out, or give the work directory."
            )
        directory, step = directory.parent.parent, directory.name
    model = LoadedModel(open_run(directory, step), weights, cpu_devices, sync)
    model.place(model.config.global_batch_size, evenly=True)
    return model
