"""Generation from prompts: continuations that are sampled, or found by beam search."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdp.arguments import as_list, check_caller, check_type, optional_number, whole_number
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling, check_seed
from jaxdp.decoding.strategy import DecodingStrategy
from jaxdp.errors import UserError
from jaxdp.inference.decoder import Decoder
from jaxdp.inference.prompts import CONTINUES_PROMPTS, Prompt, make_prompts, model_kind
from jaxdp.inference.restored_model import RestoredModel, restored_model

DEFAULT_SAMPLING = Sampling()

DEFAULT_NEW_TOKENS = 256
"""Tokens of a continuation where the caller gives no limit."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation of a prompt.

    Attributes:
        prompt: Prompt as the model read it: cleaned by `data.cleaning`, and with the separator if the run
            learned completions alone.
        text: Text that the continuation adds to the prompt, including the blank between two words.
        tokens: Ids of the continuation, without the end-of-sequence token.
        seed: Seed that samples this continuation again with num_samples=1; of a beam search the given seed.
        score: Log-probability divided by the length penalty; of a beam search only.
    """

    prompt: str
    text: str
    tokens: list[int]
    seed: int
    score: float | None = None


class GenerationRequest(NamedTuple):
    """Checked arguments of a generation.

    Attributes:
        prompts: Prompts as given.
        max_new_tokens: Largest number of tokens of one continuation; None: no limit was given.
        strategy: Sampling or beam search.
        num_samples: Number of continuations that are sampled for each prompt.
        seed: Seed of the first sample of each prompt.
    """

    prompts: list[str]
    max_new_tokens: int | None
    strategy: DecodingStrategy
    num_samples: int
    seed: int


def generation_request(
    prompts: str | Iterable[str],
    max_new_tokens: int | None,
    strategy: DecodingStrategy,
    num_samples: int,
    seed: int,
) -> GenerationRequest:
    """Checks the arguments of a generation, before anything is read.

    Raises:
        UserError: An argument is of another type or out of range.
    """
    request = GenerationRequest(
        as_list("prompts", prompts, (str,), "a string"),
        optional_number("max_new_tokens", max_new_tokens),
        strategy,
        whole_number("num_samples", num_samples),
        whole_number("seed", seed),
    )
    check_type("strategy", strategy, (BeamSearch, Sampling), "a Sampling or a BeamSearch")
    if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens={request.max_new_tokens} must be at least 1.")
    if isinstance(strategy, BeamSearch) and request.num_samples > 1:
        raise UserError(
            f"num_samples={num_samples} is for sampling; a search returns the best texts: set BeamSearch(num_returned=...)."
        )
    check_seed(request.seed, request.num_samples)
    return request


def generate_samples(restored: RestoredModel, request: GenerationRequest) -> list[Sample]:
    """Continues each prompt `num_samples` times, the rows spread over all devices.

    Args:
        restored: Model of a run whose task continues prompts.
        request: Checked arguments.

    Returns:
        Samples of the first prompt, of the second, and so on; of a beam search the best first.

    Raises:
        UserError: The task does not continue prompts, or a prompt is too long or cannot be expressed.
    """
    if not request.prompts:
        return []
    tokenizer, strategy = _tokenizer_of(restored), request.strategy
    prompts = make_prompts(request.prompts, restored.data_config, restored.task, tokenizer)
    rows = [(prompt, request.seed + sample) for prompt in prompts for sample in range(request.num_samples)]
    restored.place(len(rows))
    decoder = restored.kept(
        ("decoder", strategy),
        lambda: Decoder(
            restored.device_model,
            restored.device_params,
            restored.topology,
            strategy,
            restored.run.vocabularies.eos_ids,
            tokenizer.vocab_size,
        ),
    )

    def sample(prompt: Prompt, tokens: np.ndarray, seed: int, score: float | None = None) -> Sample:
        return Sample(prompt.text, prompt.added_text(tokenizer, tokens), tokens.tolist(), seed, score)

    if isinstance(strategy, BeamSearch):
        encoded = [prompt.tokens for prompt in prompts]
        found = decoder.search(encoded, _room(encoded, request.max_new_tokens, restored.model.config.max_length))
        return [
            sample(prompt, tokens, request.seed, score)
            for prompt, hypotheses in zip(prompts, found, strict=True)
            for tokens, score in hypotheses
        ]
    new = decoder.continue_rows(
        [prompt.tokens for prompt, _ in rows], [seed for _, seed in rows], request.max_new_tokens or DEFAULT_NEW_TOKENS
    )
    return [sample(prompt, tokens, seed) for (prompt, seed), tokens in zip(rows, new, strict=True)]


def generate(
    workdir: str | os.PathLike[str],
    prompts: str | Iterable[str],
    *,
    max_new_tokens: int | None = None,
    strategy: DecodingStrategy = DEFAULT_SAMPLING,
    num_samples: int = 1,
    seed: int = 0,
    step: str | int = "latest",
    weights: str = "ema",
    cpu_devices: int | None = None,
    sync: str | None = None,
) -> list[Sample]:
    """Loads a model and continues each prompt `num_samples` times, the rows spread over all devices.

    A continuation that outgrows the model's context goes on from the last half
    of it: the model then no longer sees what came before. A beam search does not: the
    hypotheses that it compares must all be seen from their beginning.

    `jaxdp.load` keeps the model and its compiled programs for further calls.

    Args:
        workdir: Work directory of a trained run.
        prompts: Prompts that fit the context, or one prompt; "" begins a new document.
        max_new_tokens: Largest number of tokens of one continuation; None: 256, of
            a beam search no more than the context has room for.
        strategy: `Sampling`, or a `BeamSearch` for the best continuations.
        num_samples: Number of continuations of each prompt: sample i has seed + i. The strategy of a
            beam search says how many it returns.
        seed: Seed of the first sample of each prompt.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake.
        sync: Layout of the parameters: pmean replicates them, zero3 shards them over the devices; None: that of the run.

    Raises:
        UserError: There is no run or no checkpoint, or a prompt is too long or cannot be expressed.
    """
    check_caller("jaxdp.generate")
    request = generation_request(prompts, max_new_tokens, strategy, num_samples, seed)
    if not request.prompts:
        return []
    return generate_samples(restored_model(workdir, step, weights, cpu_devices, sync), request)


def _tokenizer_of(restored: RestoredModel) -> Tokenizer:
    """Returns the tokenizer of a run; raises UserError if it has none, or its task does not continue prompts."""
    workdir = restored.run.directory.root
    if restored.task.predict_fields:
        raise UserError(
            f"--workdir={workdir} is of task={restored.config.task}, which continues no prompts: "
            f"`jaxdp predict --workdir={workdir} --text=TEXT` answers with it."
        )
    head, architecture = model_kind(restored.task, restored.config)
    if (head, architecture) != CONTINUES_PROMPTS:
        raise UserError(
            f"--workdir={workdir} is of task={restored.config.task}, which continues no prompts: its model is of "
            f"architecture {architecture} with the head {head}, expected a decoder with the head language_model."
        )
    if restored.tokenizer is None:
        raise UserError(
            f"--workdir={workdir} was trained on ready-made tokens and has no tokenizer.json; "
            "put that of the tokenizer which wrote them there."
        )
    return restored.tokenizer


def _room(encoded: Sequence[np.ndarray], max_new_tokens: int | None, context: int) -> int:
    """Returns the number of tokens that a beam search may add to the longest prompt.

    Raises:
        UserError: More are requested than the context has room for.
    """
    longest = max(map(len, encoded))
    room = context - longest
    if max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"--max_new_tokens={max_new_tokens} with --num_beams: the prompt has {longest} tokens and the model's "
            f"context is {context} (data.length), which leaves room for {room}; ask for no more than that."
        )
    return min(max_new_tokens or DEFAULT_NEW_TOKENS, room)
