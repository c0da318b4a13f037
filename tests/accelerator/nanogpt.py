"""nanoGPT's own model under `torch.compile` on the same shapes: training and generation speed, for comparison.

NANOGPT_DIR names a checkout with `model.py`, which is imported and not changed. Setup and loop are those of its `train.py`:
tf32 for float32 products, bfloat16 autocast, fused AdamW, gradient clipping at 1, batches from a memory-mapped token file,
the next batch read during the backward pass.
"""

import contextlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .context import Context
from .speed import utilisation
from .workload import SIZES, fastest, speeds, token_file

VARIABLE = "NANOGPT_DIR"
WARMUP_STEPS, BLOCK, NUM_BLOCKS = 10, 10, 4
NUM_GENERATIONS = 2


def small(context: Context) -> None:
    """Measures training with 124M parameters."""
    _measure_model(context, "124M")


def medium(context: Context) -> None:
    """Measures training with 350M parameters."""
    _measure_model(context, "350M")


def generation(context: Context) -> None:
    """Measures generation with 124M parameters."""
    found = _prepared(context, "124M")
    if found is not None:
        _measure_generation(context, *found)


def _prepared(context: Context, model: str) -> tuple[Any, str] | None:
    """Returns the model and the name of its device; None, with a row, if there is no checkout or no PyTorch."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        context.report(f"nanoGPT {model}", "not measured", f"{VARIABLE} is not set")
        return None
    if importlib.util.find_spec("torch") is None:
        context.report(f"nanoGPT {model}", "not measured", "PyTorch is not installed")
        return None
    import torch

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _make_model(context, model, _load_module(Path(directory)), device), device


def _measure_model(context: Context, model: str) -> None:
    """Measures training with the largest microbatch size that fits."""
    found = _prepared(context, model)
    if found is None:
        return
    import torch

    gpt, device = found
    for rows in _rows_to_try(context, model):
        try:
            _measure_training(context, model, gpt, rows, device)
            break
        except torch.cuda.OutOfMemoryError as error:
            context.report(f"nanoGPT {model}, {rows} rows", "out of memory", str(error)[:200])
        gpt.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _load_module(directory: Path) -> ModuleType:
    """Imports `model.py` of the checkout."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", directory / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _make_model(context: Context, model: str, module: ModuleType, device: str):
    """Returns nanoGPT with the shapes of `gpt_config`: no biases, no dropout, tied embeddings."""
    size = SIZES[context.size]
    num_layers, num_heads, embed_dim = size.models[model]
    config = module.GPTConfig(
        block_size=size.length, vocab_size=size.vocab_size, n_layer=num_layers, n_head=num_heads, n_embd=embed_dim,
        dropout=0.0, bias=False,
    )  # fmt: skip
    return module.GPT(config).to(device)


def _rows_to_try(context: Context, model: str) -> list[int]:
    """Returns the fastest microbatch size of jaxdp, then its halves, for a GPU that has too little memory for it."""
    rows = fastest(context, model).rows
    return [rows, max(rows // 2, 1), max(rows // 4, 1)]


def _measure_training(context: Context, model: str, gpt: Any, rows: int, device: str) -> None:
    """Measures training steps: the median of blocks that end with a synchronisation."""
    import torch

    size = SIZES[context.size]
    optimizer = gpt.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device)
    next_batch = _batches(context, rows, device)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    autocast = (
        torch.amp.autocast(device_type="cuda", dtype=torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
    )
    compiled = torch.compile(gpt, dynamic=False) if device == "cuda" else gpt  # no C++ compiler is needed on CPU
    tokens, targets = next_batch()

    def step() -> None:
        nonlocal tokens, targets
        with autocast:
            _, loss = compiled(tokens, targets)
        tokens, targets = next_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    context.progress(f"compiling {model}, {rows} rows")
    start = time.perf_counter()
    step()
    synchronize()
    compile_secs = time.perf_counter() - start
    full = device == "cuda"
    for _ in range(WARMUP_STEPS if full else 1):
        step()
    synchronize()
    secs = []
    for _ in range(NUM_BLOCKS):
        start = time.perf_counter()
        for _ in range(BLOCK if full else 1):
            step()
        synchronize()
        secs.append((time.perf_counter() - start) / (BLOCK if full else 1))
    _report_training(context, model, rows, size.length, secs, compile_secs, device)


def _report_training(
    context: Context, model: str, rows: int, length: int, secs: list[float], compile_secs: float, device: str
) -> None:
    import torch

    median = statistics.median(secs)
    rate = rows * length / median
    notes, data = [], {"rows": rows, "secs": secs, "compile_secs": compile_secs, "tokens_per_sec_device": rate}
    measured = speeds(context, model)
    if measured:
        best = max(measured, key=lambda one: one["tokens_per_sec_device"])
        ratio = data["ratio"] = best["tokens_per_sec_device"] / rate
        notes = [
            f"jaxdp with {best['rows']} rows is {ratio:.2f} times as fast", *utilisation(context, rate * best["flops_per_token"])
        ]  # fmt: skip
    notes.append(f"{1e3 * median:.2f} ms a step ({1e3 * min(secs):.2f} to {1e3 * max(secs):.2f})")
    if device == "cuda":
        notes.append(f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, first step {compile_secs:.1f} s")
    context.report(
        f"nanoGPT {model}, {rows} rows, PyTorch {torch.__version__}",
        f"{rate:,.0f} tokens/s a device",
        ", ".join(notes),
        **data,
    )


def _batches(context: Context, rows: int, device: str) -> Callable[[], tuple[Any, Any]]:
    """Returns `get_batch` of nanoGPT's `train.py` for the token file of the check."""
    import torch

    path, length = token_file(context), SIZES[context.size].length

    def next_batch():
        data = np.memmap(path, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - length, (rows,))
        pair = [
            torch.stack(
                [torch.from_numpy(data[start + shift : start + shift + length].astype(np.int64)) for start in starts]
            )
            for shift in (0, 1)
        ]
        if device == "cuda":
            return tuple(part.pin_memory().to(device, non_blocking=True) for part in pair)
        return tuple(pair)

    return next_batch


def _measure_generation(context: Context, gpt: Any, device: str) -> None:
    """Measures `GPT.generate`, as `sample.py` calls it: without compilation, under autocast."""
    import torch

    size = SIZES[context.size]
    autocast = (
        torch.amp.autocast(device_type="cuda", dtype=torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
    )
    gpt.eval()
    for prompts in size.prompts:
        context.progress(f"generating from {prompts} prompts")
        tokens, secs = torch.randint(size.plain_vocab_size, (prompts, size.prompt_length), device=device), []
        for _ in range(1 + NUM_GENERATIONS):
            start = time.perf_counter()
            with torch.no_grad(), autocast:
                gpt.generate(tokens, size.num_new).cpu()
            secs.append(time.perf_counter() - start)
            context.progress(f"generating from {prompts} prompts again, after {secs[-1]:.1f} s")
        rate = prompts * size.num_new / statistics.median(secs[1:])
        context.report(
            f"nanoGPT generates, {prompts} {'prompt' if prompts == 1 else 'prompts'}", f"{rate:,.0f} tokens/s a device",
            f"{size.num_new} new tokens, no KV cache", prompts=prompts, secs=secs, tokens_per_sec_device=rate,
        )  # fmt: skip
    gpt.train()
