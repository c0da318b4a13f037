"""Decoder of token rows: prompts of any lengths, in chunks that fit the context, padded to the devices."""

import collections
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.decoding.eos import EosId, is_eos, truncate_at_eos
from jaxdp.decoding.strategy import DecodingStrategy, make_decode_function
from jaxdp.inference.programs_by_shape import ProgramsByShape
from jaxdp.model import Transformer, init_cache
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.tasks.model_functions import apply_model
from jaxdp.typing import PyTree


class Decoder:
    """Decoder of rows of any lengths, in chunks that fit the context; a program is compiled once for each shape."""

    def __init__(
        self,
        model: Transformer,
        params: PyTree,
        topology: Topology,
        strategy: DecodingStrategy,
        eos_id: EosId,
        num_ids: int | None = None,
    ):
        """Creates the decoder; nothing is compiled.

        Args:
            model: The module.
            params: Its parameters on the devices.
            topology: Devices.
            strategy: Sampling or beam search.
            eos_id: Id of the end-of-sequence token, or ids that each end a text.
            num_ids: Number of ids that have a token, where the vocabulary of the model is padded; None: all have one.
        """
        self._model, self._params, self._topology = model, params, topology
        self._strategy, self._eos_id = strategy, eos_id
        is_padded = num_ids is not None and num_ids < model.config.output_vocab_size
        self._num_ids = num_ids if is_padded else None
        self._context = model.config.max_length
        self._programs = ProgramsByShape(
            "generation", self._compile,
            lambda rows, width, num_new: f"{rows} x {width} prompt tokens a device and {num_new} new ones",
            "generate for several prompts in one call, and with one number of new tokens",
        )  # fmt: skip

    def continue_rows(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], max_new_tokens: int
    ) -> list[np.ndarray]:
        """Samples new tokens for each row, up to and without the end-of-sequence token.

        Rows that outgrow the context are decoded together with rows of the same length
        only: the tokens that a row still sees must not depend on the other rows.
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
        """Searches (new tokens without the end-of-sequence token, score) of the best continuations of each prompt, best first."""
        found = self._decode(prompts, [0] * len(prompts), 0, max_new_tokens)
        return [
            [
                (truncate_at_eos(text, self._eos_id), float(score))
                for text, score in zip(texts, scores, strict=True)
                if score != -np.inf
            ]
            for texts, scores in zip(found["tokens"], found["scores"], strict=True)
        ]

    def _continue_together(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], max_new_tokens: int
    ) -> list[np.ndarray]:
        texts = [np.asarray(prompt, np.int32) for prompt in prompts]
        num_sampled = 0
        while num_sampled < max_new_tokens:
            longest = max(len(text) for text in texts)
            # A full context goes on from its last half.
            window = longest if longest < self._context else max(self._context // 2, 1)
            num_new = min(max_new_tokens - num_sampled, self._context - window)
            new = self._decode([text[-window:] for text in texts], seeds, num_sampled, num_new)["tokens"][:, 0]
            texts = [np.concatenate(pair) for pair in zip(texts, new, strict=True)]
            num_sampled += num_new
            if all(
                is_eos(text[len(prompt) :], self._eos_id).any() for text, prompt in zip(texts, prompts, strict=True)
            ):
                break
        return [truncate_at_eos(text[len(prompt) :], self._eos_id) for text, prompt in zip(texts, prompts, strict=True)]

    def _decode(self, texts, seeds, num_sampled: int, num_new: int) -> dict[str, np.ndarray]:
        """Returns the outputs of one call of the compiled loop for each text; copies of rows fill up the devices."""
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
            "offset": np.full(num_rows, num_sampled, np.int32),
        }
        program = self._programs(num_rows // num_devices, width, num_new)
        found = jax.device_get(program(self._params, place_batch(batch, self._topology)))
        return {name: array.reshape(num_rows, *array.shape[2:])[: len(texts)] for name, array in found.items()}

    @property
    def _limit(self) -> dict[str, int]:
        return {} if self._num_ids is None else {"num_ids": self._num_ids}

    def _compile(self, rows: int, width: int, num_new: int):
        decode = make_decode_function(
            functools.partial(_apply_to_tokens if self._num_ids else apply_model, self._model, **self._limit),
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
            jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), self._params
            ),
            abstract_batch(spec, self._topology),
            out_axes=0,
        )


def _apply_to_tokens(model: Transformer, params: PyTree, tokens: jax.Array, *, num_ids: int, **options):
    """Applies the model; logits of ids without a token, which pad the vocabulary, are minus infinity."""
    outputs = apply_model(model, params, tokens, **options)
    if options.get("method") != "decode":
        return outputs
    logits, cache = outputs
    has_token = jnp.arange(logits.shape[-1]) < num_ids
    return jnp.where(has_token[None, None, :], logits, -jnp.inf), cache
