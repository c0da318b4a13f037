"""Step and generation times of jaxdp and of peers on the CPU, in turns, so that every ratio can be reproduced.

    NANOGPT_DIR=DIR python tests/peers.py [--recipe=nanogpt_cpu|six_layers] [--rounds=20] [--peers=nanogpt,gpt2,trainer] [--generate]

Each system has a process of its own, and all but one of them wait. A round has some steps of each, in an order that is
reversed every time; the ratios are taken within a round. NANOGPT_DIR is a checkout of github.com/karpathy/nanoGPT, whose
`model.py` is imported; `gpt2` (a plain training loop around transformers' GPT-2) and `trainer` (its Trainer) need
transformers, and `trainer` accelerate too. PyTorch must be installed. Random tokens; float32; AdamW; clipping at 1.
"""

import argparse
import dataclasses
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Shapes of a model and of its batch, without biases and dropout, with tied embeddings.

    Attributes:
        steps: Steps of a round.
    """

    num_layers: int
    num_heads: int
    embed_dim: int
    vocab_size: int
    length: int
    rows: int
    steps: int


RECIPES = {
    "nanogpt_cpu": Recipe(4, 4, 128, 65, 64, 12, 50),
    "six_layers": Recipe(6, 6, 384, 65, 256, 16, 2),
}
WARMUP_STEPS = 10
NEW_TOKENS = 256
PROMPTS = (1, 16)
PROMPT_LENGTH = 8


# Workers: each returns a function that runs N steps and one that generates from N prompts. Both wait for their result.


def jaxdp_worker(recipe: Recipe, directory: Path) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Prepares jaxdp's train step with its data pipeline, and its generation."""
    import jax

    from jaxdp import defaults
    from jaxdp.config import parse_config
    from jaxdp.data.prefetch import Prefetch
    from jaxdp.decoding.sampling import Sampling
    from jaxdp.inference.decoder import Decoder
    from jaxdp.training.prepared_run import prepare_run
    from jaxdp.training.setup import TrainingSetup

    tokens = np.random.default_rng(0).integers(recipe.vocab_size, size=1_000_000).astype(np.uint16)
    tokens.tofile(directory / "tokens.bin")
    config = defaults.get_config()
    config.total_steps = 1_000_000
    config.global_batch_size = recipe.rows
    config.data.source, config.data.path = "tokens", str(directory / "tokens.bin")
    config.data.length = recipe.length
    config.data.eval_fraction = 0.1
    config.data.cache_dir = str(directory / "cache")
    config.model.preset = "nano"
    config.model.vocab_size = recipe.vocab_size
    for name in ("num_layers", "num_heads", "embed_dim"):
        setattr(config.model, name, getattr(recipe, name))
    config.model.mlp_dim = 4 * recipe.embed_dim
    setup = TrainingSetup(prepare_run(parse_config(config)))
    program, state, control_word = setup.compile_step(), setup.fresh_state(), setup.control_word_maker()(0, 0)
    batches = Prefetch(setup.loader.batches(0), setup.place, 2)

    def train(num_steps: int) -> None:
        nonlocal state
        for _ in range(num_steps):
            state, _ = program(state, next(batches)[0], control_word)
        jax.block_until_ready(state)

    # The context of generation is longer than that of training, as the peers' is.
    config.data.length, config.global_batch_size = NEW_TOKENS + PROMPT_LENGTH, max(PROMPTS)
    longer = TrainingSetup(prepare_run(parse_config(config)))
    params = longer.strategy.eval_params(longer.fresh_state())
    decoder = Decoder(longer.eval_model, params, longer.topology, Sampling(top_k=recipe.vocab_size), eos_id=-1)
    prompts = np.random.default_rng(1).integers(recipe.vocab_size, size=(max(PROMPTS), PROMPT_LENGTH))

    def generate(num_prompts: int) -> None:
        decoder.continue_rows(prompts[:num_prompts], range(num_prompts), NEW_TOKENS)

    return train, generate


def nanogpt_module() -> ModuleType:
    """Imports `model.py` of the checkout that NANOGPT_DIR names."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(os.environ["NANOGPT_DIR"]) / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nanogpt_worker(recipe: Recipe, directory: Path) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Prepares nanoGPT's model, optimizer and loop, without `torch.compile` as its README advises for a CPU."""
    import torch

    module = nanogpt_module()
    model = module.GPT(
        module.GPTConfig(
            block_size=max(recipe.length, NEW_TOKENS + PROMPT_LENGTH), vocab_size=recipe.vocab_size,
            n_layer=recipe.num_layers, n_head=recipe.num_heads, n_embd=recipe.embed_dim, dropout=0.0, bias=False,
        )
    )  # fmt: skip
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    data = torch.randint(recipe.vocab_size, (1_000_000,))

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            starts = torch.randint(len(data) - recipe.length, (recipe.rows,))
            tokens, targets = (
                torch.stack([data[start + shift : start + shift + recipe.length] for start in starts])
                for shift in (0, 1)
            )
            _, loss = model(tokens, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def generate(num_prompts: int) -> None:
        model.eval()
        with torch.no_grad():
            model.generate(torch.randint(recipe.vocab_size, (num_prompts, PROMPT_LENGTH)), NEW_TOKENS, top_k=200)
        model.train()

    return train, generate


def _gpt2(recipe: Recipe):
    """Returns transformers' GPT-2 of these shapes; its biases cannot be switched off."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=recipe.vocab_size, n_positions=max(recipe.length, NEW_TOKENS + PROMPT_LENGTH),
            n_embd=recipe.embed_dim, n_layer=recipe.num_layers, n_head=recipe.num_heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def gpt2_worker(recipe: Recipe, directory: Path) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Prepares a plain training loop around transformers' GPT-2, and its `generate` with a KV cache."""
    import torch

    model = _gpt2(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            tokens = torch.randint(recipe.vocab_size, (recipe.rows, recipe.length))
            model(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def generate(num_prompts: int) -> None:
        model.eval()
        tokens = torch.randint(recipe.vocab_size, (num_prompts, PROMPT_LENGTH))
        model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW_TOKENS, do_sample=True, pad_token_id=0
        )
        model.train()

    return train, generate


def trainer_worker(recipe: Recipe, directory: Path) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Prepares transformers' Trainer; every round is a new training, and its start counts."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Examples(torch.utils.data.Dataset):
        def __len__(self):
            return 10_000

        def __getitem__(self, index):
            tokens = torch.randint(recipe.vocab_size, (recipe.length,))
            return {"input_ids": tokens, "labels": tokens}

    model = _gpt2(recipe)

    def train(num_steps: int) -> None:
        arguments = TrainingArguments(
            output_dir=str(directory), max_steps=num_steps, per_device_train_batch_size=recipe.rows, use_cpu=True,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=1e-3,
            weight_decay=0.1, max_grad_norm=1.0,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=Examples()).train()

    return train, gpt2_worker(recipe, directory)[1]


WORKERS = {"jaxdp": jaxdp_worker, "nanogpt": nanogpt_worker, "gpt2": gpt2_worker, "trainer": trainer_worker}


# The main process.


class Worker:
    """A process that runs what it is told on its stdin, and answers with the seconds that it took."""

    def __init__(self, name: str, recipe: str):
        command = [sys.executable, __file__, f"--worker={name}", f"--recipe={recipe}"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what: str, number: int) -> float:
        """Runs `number` steps, or generates from as many prompts; returns the seconds."""
        print(what, number, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker ended with exit code {self.process.wait()}; its errors are above")
        return float(answer)

    def end(self) -> None:
        """Closes its stdin, at which it ends."""
        self.process.stdin.close()
        self.process.wait()


def serve(name: str, recipe: Recipe) -> None:
    """Runs the loop of a worker process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout
    with tempfile.TemporaryDirectory(prefix="jaxdp_peers_") as directory:
        train, generate = WORKERS[name](recipe, Path(directory))
        for line in sys.stdin:
            what, number = line.split()
            start = time.perf_counter()
            (train if what == "train" else generate)(int(number))
            print(time.perf_counter() - start, file=answers, flush=True)


def matmul_gflops(size: int = 1024, repeats: int = 20) -> float:
    """Measures the float32 matrix products that NumPy reaches on all cores, in GFLOP/s: the ceiling of a step."""
    left, right = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
    left @ right
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    return 2 * size**3 * repeats / (time.perf_counter() - start) / 1e9


def compare(workers: dict[str, Worker], rounds: int, what: str, number: int) -> dict[str, list[float]]:
    """Runs rounds in turns; returns the seconds of each round by worker."""
    secs: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(rounds):
        for name in reversed(workers) if turn % 2 else workers:
            secs[name].append(workers[name].ask(what, number))
    return secs


def show(title: str, secs: dict[str, list[float]], each: Callable[[float], str]) -> None:
    """Prints a line for each worker: the median, and how many times jaxdp is as fast, by round."""
    print(title)
    for name, times in secs.items():
        ratios = sorted(other / own for other, own in zip(times, secs["jaxdp"], strict=True))
        tenth = len(ratios) // 10
        compared = "" if name == "jaxdp" else (
            f"   jaxdp is {statistics.median(ratios):.2f} times as fast ({ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f})"
        )  # fmt: skip
        print(f"  {name:<8} {each(statistics.median(times)):>22}{compared}", flush=True)


def main() -> None:
    """Parses the command line and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="nanogpt_cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", default="nanogpt", help="of nanogpt, gpt2 and trainer, separated by commas")
    parser.add_argument("--generate", action="store_true", help="generation of 256 tokens instead of training")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    recipe = RECIPES[options.recipe]
    if options.worker:
        serve(options.worker, recipe)
        return
    names = options.peers.split(",")
    if unknown := set(names) - set(WORKERS):
        parser.error(f"--peers={options.peers} has {', '.join(sorted(unknown))}; choose of nanogpt, gpt2 and trainer")
    if "nanogpt" in names and not (Path(os.environ.get("NANOGPT_DIR", "")) / "model.py").is_file():
        parser.error("NANOGPT_DIR must name a checkout of github.com/karpathy/nanoGPT, with model.py in it")
    workers = {name: Worker(name, options.recipe) for name in ("jaxdp", *names)}
    if options.generate:
        for prompts in PROMPTS:
            compare(workers, 1, "generate", prompts)  # compiles
            secs = compare(workers, options.rounds, "generate", prompts)
            title = f"{options.recipe}: {NEW_TOKENS} new tokens from {prompts} prompt{'s' * (prompts > 1)} of {PROMPT_LENGTH} tokens"
            show(title, secs, lambda median, rows=prompts: f"{rows * NEW_TOKENS / median:,.0f} tokens/s")
    else:
        compare(workers, 1, "train", WARMUP_STEPS)
        secs = compare(workers, options.rounds, "train", recipe.steps)
        title = f"{options.recipe}: {options.rounds} rounds of {recipe.steps} steps; matrix products reach {matmul_gflops():.0f} GFLOP/s"
        show(title, secs, lambda median: f"{1e3 * median / recipe.steps:.2f} ms a step")
    for worker in workers.values():
        worker.end()


if __name__ == "__main__":
    main()
