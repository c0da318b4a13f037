"""Workloads of the check: sizes, the token file of random tokens, and the configurations of the models."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdp.config import load_config, parse_config
from jaxdp.run_config import RunConfig
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

from .context import Context

RECIPE = Path(__file__).parents[2] / "configs" / "gpt2_small.py"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Setting in which the speed of a model is measured.

    Attributes:
        rows: Sequences of one microbatch.
        scan_layers: Whether one layer is compiled and scanned, or all layers are unrolled.
    """

    rows: int
    scan_layers: bool

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.rows} rows, {'scanned' if self.scan_layers else 'unrolled'} layers"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Keys of the configuration."""
        return (f"model.scan_layers={self.scan_layers}",)


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of all sections.

    Attributes:
        name: "full" or "tiny".
        length: Tokens of a sequence.
        vocab_size: Vocabulary of the model, a multiple of 128 on accelerators.
        plain_vocab_size: Vocabulary before it was rounded up; all tokens are below it.
        num_tokens: Tokens of the training file.
        models: Layers, heads and width by the name in the table.
        candidates: Settings to try by model, the most important first.
        variant_rows: Microbatch size of the variants.
        num_steps: Measured steps of a program.
        num_saves: Measured saves.
        repeat_layers, repeat_rows: Layers and sequences of the model that trains twice.
        parity_shape: Batch, length, heads and head width of the attention that is compared.
        prompts: Numbers of prompts to generate from together.
        prompt_length, num_new: Tokens of a prompt, and new tokens.
        matmul_width, copy_bytes: Sizes of the ceilings.
    """

    name: str
    length: int
    vocab_size: int
    plain_vocab_size: int
    num_tokens: int
    models: dict[str, tuple[int, int, int]]
    candidates: dict[str, tuple[Candidate, ...]]
    variant_rows: int
    num_steps: int
    num_saves: int
    repeat_layers: int
    repeat_rows: int
    parity_shape: tuple[int, int, int, int]
    prompts: tuple[int, ...]
    prompt_length: int
    num_new: int
    matmul_width: int
    copy_bytes: int


FULL = Size(
    name="full",
    length=1024,
    vocab_size=50304,
    plain_vocab_size=50257,
    num_tokens=20_000_000,
    models={"124M": (12, 12, 768), "350M": (24, 16, 1024)},
    candidates={
        "124M": (Candidate(32, False), Candidate(32, True), Candidate(64, False)),  # planned 22, 33, 42 GiB on an H100
        "350M": (Candidate(16, True), Candidate(16, False), Candidate(32, False)),  # 39, 24 and about 45 GiB
    },
    variant_rows=16,
    num_steps=20,
    num_saves=3,
    repeat_layers=3,
    repeat_rows=8,
    parity_shape=(4, 512, 12, 64),
    prompts=(1, 16),
    prompt_length=16,
    num_new=256,
    matmul_width=8192,
    copy_bytes=2**31,
)

TINY = Size(
    name="tiny",
    length=32,
    vocab_size=256,
    plain_vocab_size=251,
    num_tokens=20_000,
    models={"124M": (2, 2, 16), "350M": (2, 2, 32)},
    candidates={"124M": (Candidate(2, True), Candidate(4, False)), "350M": (Candidate(2, True),)},
    variant_rows=2,
    num_steps=3,
    num_saves=2,
    repeat_layers=1,
    repeat_rows=2,
    parity_shape=(2, 16, 4, 8),
    prompts=(1, 4),
    prompt_length=4,
    num_new=8,
    matmul_width=64,
    copy_bytes=2**16,
)

SIZES = {size.name: size for size in (FULL, TINY)}


def token_file(context: Context) -> Path:
    """Returns the file of random tokens, written at the first call."""
    size, path = SIZES[context.size], context.scratch / "tokens.bin"
    if not path.exists():
        tokens = np.random.default_rng(0).integers(0, size.plain_vocab_size, size.num_tokens, dtype=np.uint16)
        partial = path.with_suffix(f".{context.section.replace(' ', '_')}")  # sections of one stage may both write it
        tokens.tofile(partial)
        partial.replace(path)
    return path


def gpt_config(context: Context, model: str, rows: int, *overrides: str) -> RunConfig:
    """Returns the configuration of `configs/gpt2_small.py` for this model, with one microbatch of `rows` a device.

    Args:
        context: Context of the section.
        model: Name of the model, a key of `Size.models`.
        rows: Sequences of one device.
        *overrides: Further keys, such as `model.attention=plain`.
    """
    size = SIZES[context.size]
    num_layers, num_heads, embed_dim = size.models[model]
    keys = (
        f"data.path={token_file(context)}",
        f"data.length={size.length}",
        f"model.vocab_size={size.vocab_size}",
        f"model.num_layers={num_layers}",
        f"model.num_heads={num_heads}",
        f"model.embed_dim={embed_dim}",
        f"global_batch_size={rows * jax.device_count()}",
        f"microbatch_size={rows}",
        *overrides,
    )
    values = dict(key.split("=", 1) for key in keys)  # an override replaces the key above
    return parse_config(load_config(RECIPE, [f"--config.{key}={value}" for key, value in values.items()]))


def fastest(context: Context, model: str) -> Candidate:
    """Returns the setting with the highest throughput in section `speed`; the first if it measured none."""
    measured = speeds(context, model)
    if not measured:
        return SIZES[context.size].candidates[model][0]
    best = max(measured, key=lambda data: data["tokens_per_sec_device"])
    return Candidate(best["rows"], best["scan_layers"])


def speeds(context: Context, model: str) -> list[dict[str, Any]]:
    """Returns the data of all speeds that section `speed` has measured for a model."""
    return [row["data"] for row in context.earlier(f"speed {model}") if "tokens_per_sec_device" in row["data"]]


def gpt_setup(context: Context, model: str, rows: int, *overrides: str) -> TrainingSetup:
    """Returns the training setup of `gpt_config`."""
    return TrainingSetup(prepare_run(gpt_config(context, model, rows, *overrides)))
