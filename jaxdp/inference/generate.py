"""`jaxdp generate`: continue prompts with the model of a work directory."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jaxdp.arguments import (
    WEIGHTS,
    as_list,
    check_caller,
    check_choice,
    check_type,
    optional_number,
    step_name,
    whole_number,
)
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.data.named_files import with_word_lists
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling, check_seed
from jaxdp.decoding.strategy import DecodingStrategy, make_decode_function, truncate_at_eos
from jaxdp.errors import UserError
from jaxdp.hardware.cores import num_cores
from jaxdp.inference.initial_params import weights_key
from jaxdp.inference.prompts import make_prompts
from jaxdp.inference.trained_run import TrainedRun, open_run
from jaxdp.model import Transformer, init_cache, parameter_shapes
from jaxdp.parallel.devices import Topology, configure_backend, init_devices
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.tasks import Task
from jaxdp.tasks.architecture import make_model
from jaxdp.tasks.make import make_task
from jaxdp.tasks.model_functions import apply_model
from jaxdp.typing import PyTree

DEFAULT_SAMPLING = Sampling()

MOST_NEW_TOKENS = 256
"""Of a continuation, where the caller does not say."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation.

    Attributes:
        prompt: as the model read it: cleaned by `data.cleaning`, and of a run that learned
            completions alone with the separator.
        text: what the continuation adds to the prompt, with the blank between two words.
        tokens: its ids, without end of text.
        seed: draws this sample again when given with num_samples=1; as given, where
            nothing was drawn.
        score: of a search: log-probability divided by the length penalty.
    """

    prompt: str
    text: str
    tokens: list[int]
    seed: int
    score: float | None = None


def generate(
    workdir: str | os.PathLike,
    prompts: str | Iterable[str],
    *,
    max_new_tokens: int | None = None,
    strategy: DecodingStrategy = DEFAULT_SAMPLING,
    num_samples: int = 1,
    seed: int = 0,
    step: str | int = "latest",
    weights: str = "ema",
    cpu_devices: int | None = None,
) -> list[Sample]:
    """Continues each prompt `num_samples` times, the rows spread over all devices.

    A continuation that outgrows the model's context goes on from the last half
    of it: the model then no longer sees what came before. A search does not: the
    hypotheses that it compares must all be seen from their beginning.

    Args:
        workdir: of a trained run.
        prompts: any lengths that fit the context, or one prompt; "" begins a new document.
        max_new_tokens: tokens of one continuation at most; None: `MOST_NEW_TOKENS`, of
            a search no more than the context has room for.
        strategy: how tokens are drawn, or a search for the best continuations.
        num_samples: continuations of each prompt: sample i is drawn from seed + i; of a
            search say in the strategy how many it returns.
        seed: for the draws.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: CPU devices to fake.

    Raises:
        UserError: no run, no checkpoint, a prompt that is too long or cannot be expressed.
    """
    check_caller("jaxdp.generate")
    prompts = as_list("prompts", prompts, (str,), "a string")
    max_new_tokens, cpu_devices = optional_number("max_new_tokens", max_new_tokens), optional_number("cpu_devices", cpu_devices)
    num_samples, seed, step = whole_number("num_samples", num_samples), whole_number("seed", seed), step_name(step)
    check_type("strategy", strategy, (BeamSearch, Sampling), "a Sampling or a BeamSearch")
    check_choice("weights", weights, WEIGHTS)
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UserError(f"--max_new_tokens={max_new_tokens} must be at least 1.")
    if isinstance(strategy, BeamSearch) and num_samples > 1:
        raise UserError(
            f"num_samples={num_samples} is for sampling; a search returns the best texts: set BeamSearch(num_returned=...)."
        )
    check_seed(seed, num_samples)
    if not prompts:
        return []
    run = open_run(workdir, step)
    task = _task_of_prompts(run)
    config, checkpoint, tokenizer = run.config, run.checkpoint, run.vocabularies.tokenizer
    prepared = make_prompts(prompts, with_word_lists(config.data, run.vocabularies.files), task, tokenizer)
    encoded = [prompt.tokens for prompt in prepared]
    rows = [(prompt, seed + sample) for prompt in prepared for sample in range(num_samples)]

    configure_backend(cpu_devices, min(num_cores(), len(rows)))
    topology = init_devices()
    model = make_model(config, task, config.model.vocab_size, topology.platform)
    params = restore_part(
        checkpoint,
        weights_key(checkpoint, weights),
        abstract_replicated(parameter_shapes(model.config), topology),
    )
    decoder = _Decoder(model, params, topology, strategy, tokenizer.eos_id)
    if isinstance(strategy, BeamSearch):
        most = _room(encoded, max_new_tokens, model.config.max_length)
        return [
            Sample(prompt.text, prompt.added_text(tokenizer, tokens), tokens.tolist(), seed, score)
            for prompt, found in zip(prepared, decoder.search(encoded, most), strict=True)
            for tokens, score in found
        ]
    new = decoder.continue_rows(
        [prompt.tokens for prompt, _ in rows], [row_seed for _, row_seed in rows], max_new_tokens or MOST_NEW_TOKENS
    )
    return [
        Sample(prompt.text, prompt.added_text(tokenizer, tokens), tokens.tolist(), row_seed)
        for (prompt, row_seed), tokens in zip(rows, new, strict=True)
    ]


def _task_of_prompts(run: TrainedRun) -> Task:
    """The task of a run, which must be able to continue prompts.

    Raises:
        UserError: Its task predicts instead, or the run has no tokenizer.
    """
    task, workdir = make_task(run.config, run.vocabularies), run.directory.root
    if task.predict_fields:
        raise UserError(
            f"--workdir={workdir} is of task={run.config.task}, which continues no prompts: "
            f"`jaxdp predict --workdir={workdir} --text=TEXT` answers with it."
        )
    if run.vocabularies.tokenizer is None:
        raise UserError(
            f"--workdir={workdir} was trained on ready-made tokens and has no tokenizer.json; "
            "put that of the tokenizer which wrote them there."
        )
    return task


def _room(encoded: Sequence[np.ndarray], max_new_tokens: int | None, context: int) -> int:
    """How many tokens a search may add to the longest prompt."""
    longest = max(map(len, encoded))
    room = context - longest
    if max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"--max_new_tokens={max_new_tokens} with --num_beams: the prompt has {longest} tokens and the model's "
            f"context is {context} (data.length), which leaves room for {room}; ask for no more than that."
        )
    return min(max_new_tokens or MOST_NEW_TOKENS, room)


class _Decoder:
    """Decodes rows of any lengths in chunks that fit the context."""

    def __init__(
        self,
        model: Transformer,
        params: PyTree,
        topology: Topology,
        strategy: DecodingStrategy,
        eos_id: int,
    ):
        self._model, self._params, self._topology = model, params, topology
        self._strategy, self._eos_id = strategy, eos_id
        self._context = model.config.max_length
        self._compiled = functools.lru_cache(self._compile)

    def continue_rows(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], max_new_tokens: int
    ) -> list[np.ndarray]:
        """New tokens of each row, up to and without end of text.

        Rows that outgrow the context are decoded beside rows of the same length
        only: what a row still sees must not depend on its company.
        """
        groups = collections.defaultdict(list)
        for row, prompt in enumerate(prompts):
            outgrows = len(prompt) + max_new_tokens > self._context
            groups[len(prompt) if outgrows else 0].append(row)
        new: dict[int, np.ndarray] = {}
        for rows in groups.values():
            continued = self._continue_together(
                [prompts[row] for row in rows], [seeds[row] for row in rows], max_new_tokens
            )
            new.update(zip(rows, continued, strict=True))
        return [new[row] for row in range(len(prompts))]

    def search(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> list[list[tuple[np.ndarray, float]]]:
        """(new tokens up to and without end of text, score) of the best continuations of each prompt, best first."""
        found = self._decode(prompts, [0] * len(prompts), 0, max_new_tokens)
        return [
            [(truncate_at_eos(text, self._eos_id), float(score)) for text, score in zip(texts, scores, strict=True) if score != -np.inf]
            for texts, scores in zip(found["tokens"], found["scores"], strict=True)
        ]

    def _continue_together(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], max_new_tokens: int
    ) -> list[np.ndarray]:
        texts = [np.asarray(prompt, np.int32) for prompt in prompts]
        drawn = 0
        while drawn < max_new_tokens:
            longest = max(len(text) for text in texts)
            # A full context goes on from its last half.
            window = longest if longest < self._context else max(self._context // 2, 1)
            num_new = min(max_new_tokens - drawn, self._context - window)
            new = self._decode([text[-window:] for text in texts], seeds, drawn, num_new)["tokens"][:, 0]
            texts = [np.concatenate(pair) for pair in zip(texts, new, strict=True)]
            drawn += num_new
            if all(self._eos_id in text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)):
                break
        return [truncate_at_eos(text[len(prompt) :], self._eos_id) for text, prompt in zip(texts, prompts, strict=True)]

    def _decode(self, texts, seeds, drawn: int, num_new: int) -> dict[str, np.ndarray]:
        """What one call of the compiled loop gives each text; copies of rows fill up the devices, and end when those do."""
        num_devices = self._topology.num_devices
        num_rows = -(-len(texts) // num_devices) * num_devices
        width = max(len(text) for text in texts)
        tokens = np.zeros((num_rows, width), np.int32)
        mask = np.zeros((num_rows, width), bool)
        for row in range(num_rows):
            text = texts[row % len(texts)]
            tokens[row, width - len(text) :] = text
            mask[row, width - len(text) :] = True
        batch = {
            "tokens": tokens,
            "prompt_mask": mask,
            "seeds": np.resize(np.asarray(seeds, np.uint32), num_rows),
            "offset": np.full(num_rows, drawn, np.int32),
        }
        program = self._compiled(num_rows // num_devices, width, num_new)
        found = jax.device_get(program(self._params, place_batch(batch, self._topology)))
        return {name: array.reshape(num_rows, *array.shape[2:])[: len(texts)] for name, array in found.items()}

    def _compile(self, rows: int, width: int, num_new: int):
        decode = make_decode_function(
            functools.partial(apply_model, self._model),
            functools.partial(init_cache, self._model.config),
            self._strategy,
            num_new=num_new,
            eos_id=self._eos_id,
        )
        spec = {
            "tokens": jax.ShapeDtypeStruct((rows, width), np.int32),
            "prompt_mask": jax.ShapeDtypeStruct((rows, width), bool),
            "seeds": jax.ShapeDtypeStruct((rows,), np.uint32),
            "offset": jax.ShapeDtypeStruct((rows,), np.int32),
        }
        return compile_spmd(
            decode,
            self._topology,
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), self._params),
            abstract_batch(spec, self._topology),
            mapped=(1,),
            mapped_output=True,
        )
