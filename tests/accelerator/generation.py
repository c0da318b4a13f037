"""Generation speed of GPT-2 124M with jaxdp's decoding loop, for one prompt and for several."""

import time

import jax
import numpy as np

from jaxdp.bench.decoding import cached
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.training.setup import TrainingSetup
from jaxdp.typing import PyTree

from .context import Context
from .workload import SIZES, gpt_setup

NUM_RUNS = 3


def measure(context: Context) -> None:
    """Measures every number of prompts: median of several generations, after compilation and one warm-up."""
    size, longest = SIZES[context.size], 0.0
    for scan_layers in (False, True):
        context.progress(f"preparing, scan_layers={scan_layers}")
        setup = gpt_setup(context, "124M", size.variant_rows, f"model.scan_layers={scan_layers}")
        params = setup.strategy.eval_params(setup.fresh_state())
        for prompts in size.prompts:
            before = context.remaining_secs
            if before < longest:
                context.report(f"{prompts} prompts, scan_layers={scan_layers}", "skipped", "no time left")
                continue
            _measure(context, setup, params, prompts, scan_layers)
            longest = max(longest, before - context.remaining_secs)


def _measure(context: Context, setup: TrainingSetup, params: PyTree, prompts: int, scan_layers: bool) -> None:
    """Generates from random prompts, with sampling from the whole distribution, as nanoGPT's `sample.py` without top-k."""
    size = SIZES[context.size]
    layers = "scanned" if scan_layers else "unrolled"
    rows, topology = prompts * setup.topology.num_devices, setup.topology
    random = np.random.default_rng(0)
    batch = {
        "tokens": random.integers(0, size.plain_vocab_size, (rows, size.prompt_length)).astype(np.int32),
        "prompt_mask": np.ones((rows, size.prompt_length), bool),
        "seeds": np.arange(rows, dtype=np.uint32),
        "offset": np.zeros(rows, np.int32),
    }
    spec = {name: jax.ShapeDtypeStruct((prompts, *array.shape[1:]), array.dtype) for name, array in batch.items()}
    decode = make_decode(*cached(setup.eval_model), Sampling(), num_new=size.num_new, eos_id=None)
    context.progress(f"compiling for {prompts} prompts, {layers} layers")
    program = compile_spmd(
        decode, topology, setup.placement.abstract_eval_params, abstract_batch(spec, topology), out_axes=0
    )  # fmt: skip
    context.progress(f"generating from {prompts} prompts, {layers} layers")
    placed, secs = place_batch(batch, topology), []
    for _ in range(1 + NUM_RUNS):
        start = time.perf_counter()
        jax.block_until_ready(program(params, placed))
        secs.append(time.perf_counter() - start)
    median = sorted(secs[1:])[NUM_RUNS // 2]
    context.report(
        f"jaxdp, {prompts} {'prompt' if prompts == 1 else 'prompts'} a device, {layers} layers",
        f"{prompts * size.num_new / median:,.0f} tokens/s a device",
        f"{1e3 * median / size.num_new:.2f} ms a token, {size.num_new} new tokens, compiled in {program.compile_secs:.1f} s",
        prompts=prompts, secs=secs, tokens_per_sec_device=prompts * size.num_new / median, scan_layers=scan_layers,
    )  # fmt: skip
