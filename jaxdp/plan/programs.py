"""Programs of a run besides its train step, compiled without data: evaluation of a batch, and decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling
from jaxdp.decoding.strategy import make_decode_function
from jaxdp.inference.scoring import MAX_ROWS
from jaxdp.model import init_cache
from jaxdp.parallel.placement import abstract_batch
from jaxdp.parallel.spmd import Program, compile_spmd
from jaxdp.tasks.model_functions import apply_model
from jaxdp.training.step_setup import StepSetup

END_ID = 0
"""Id that ends a text; any id gives the same program."""


def decoding_rows(setup: StepSetup) -> str | None:
    """Describes what the decoding program generates on one device; None: the task generates no text."""
    model = setup.eval_model.config
    if setup.task.generated_field:
        beams = setup.config.eval.num_beams
        return f"{MAX_ROWS} targets a device" + (f", {beams} beams" if beams > 1 else "")
    if model.architecture == "decoder" and model.head == "language_model":
        return f"{MAX_ROWS} prompts of {model.max_length // 2} tokens a device, continued to {model.max_length}"
    return None


def compile_decoding(setup: StepSetup) -> Program:
    """Compiles generation with the KV cache, of a task for which `decoding_rows` describes it."""
    spec, strategy, num_new = (_targets if setup.task.generated_field else _continuations)(setup)
    model = setup.eval_model
    decode = make_decode_function(
        functools.partial(apply_model, model),
        functools.partial(init_cache, model.config),
        strategy,
        num_new=num_new,
        eos_id=END_ID,
    )
    return compile_spmd(
        decode,
        setup.topology,
        setup.placement.abstract_eval_params,
        abstract_batch(spec, setup.topology),
        out_axes=0,
    )


def _continuations(setup: StepSetup):
    """Returns batch, strategy and number of new tokens of prompts that fill half of the context."""
    context = setup.eval_model.config.max_length
    size = max(context // 2, 1)
    spec = {
        "tokens": jax.ShapeDtypeStruct((MAX_ROWS, size), jnp.int32),
        "prompt_mask": jax.ShapeDtypeStruct((MAX_ROWS, size), jnp.bool_),
    }
    return spec | _sampling_spec(), Sampling(temperature=0), max(context - size, 1)


def _targets(setup: StepSetup):
    """Returns batch, strategy and number of new tokens of the targets that an evaluation generates."""
    task = setup.task
    examples = {
        "tokens": np.zeros((MAX_ROWS, task.row_lengths["tokens"]), np.int32),
        "num_tokens": np.ones(MAX_ROWS, np.int32),
    }
    spec = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in task.make_predict_batch(examples).items()
    }
    return spec | _sampling_spec(), BeamSearch(setup.config.eval.num_beams), task.row_lengths[task.generated_field]


def _sampling_spec() -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "seeds": jax.ShapeDtypeStruct((MAX_ROWS,), jnp.uint32),
        "offset": jax.ShapeDtypeStruct((MAX_ROWS,), jnp.int32),
    }
