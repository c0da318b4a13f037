"""Wall time to a validation loss on the CPU: nanoGPT's recipe and a recipe of jaxdp in turns, from process start, cold caches.

    NANOGPT_DIR=DIR python tests/time_to_loss.py --path=tinyshakespeare.txt [--config=speedrun_cpu] [--rounds=3] [--keys=KEY=VALUE,...]

NANOGPT_DIR is a checkout of github.com/karpathy/nanoGPT, whose `model.py` is imported; its recipe is that of its README for
a machine without a GPU. The time of nanoGPT is that of process start, data and 2,000 steps, without its evaluations. That of
jaxdp is of the whole process, with compilation into an empty cache, evaluation of the whole validation split and save.
Both losses are means over the last tenth of the text, in windows of 64 characters. PyTorch must be installed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import nanogpt_module

LENGTH, ROWS, STEPS, WARMUP_STEPS, RATE, LAST_RATE = 64, 12, 2000, 100, 1e-3, 1e-4


def nanogpt(path: Path, seed: int) -> None:
    """Trains nanoGPT's recipe; prints one line at the end of training, and then the loss on the validation split."""
    import torch

    torch.manual_seed(seed)
    text = path.read_text(encoding="utf-8")
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    data = torch.from_numpy(np.array([numbers[character] for character in text], np.int64))
    train, held_out = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
    module = nanogpt_module()
    model = module.GPT(
        module.GPTConfig(
            block_size=LENGTH, vocab_size=len(numbers), n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False
        )
    )
    optimizer = model.configure_optimizers(0.1, RATE, (0.9, 0.99), "cpu")
    for step in range(STEPS):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)))
        warm = RATE * (step + 1) / (WARMUP_STEPS + 1)
        for group in optimizer.param_groups:
            group["lr"] = warm if step < WARMUP_STEPS else LAST_RATE + cosine * (RATE - LAST_RATE)
        starts = torch.randint(len(train) - LENGTH, (ROWS,))
        tokens, targets = (
            torch.stack([train[start + shift : start + shift + LENGTH] for start in starts]) for shift in (0, 1)
        )
        _, loss = model(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print("trained", flush=True)
    rows = (len(held_out) - 1) // LENGTH
    tokens, targets = (held_out[shift : shift + rows * LENGTH].view(rows, LENGTH) for shift in (0, 1))
    model.eval()
    with torch.no_grad():
        losses = [
            model(tokens[at : at + 100], targets[at : at + 100])[1] * len(tokens[at : at + 100])
            for at in range(0, rows, 100)
        ]
    print(float(sum(losses)) / rows, flush=True)


def measure_nanogpt(path: Path, seed: int) -> tuple[float, float]:
    """Returns the seconds of training from process start, and the loss."""
    command = [sys.executable, __file__, f"--path={path}", f"--nanogpt={seed}"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:  # model.py prints too
            if line.strip() == "trained":
                break
        secs = time.perf_counter() - start
        return secs, float(process.stdout.readline())


def measure_jaxdp(path: Path, config: str, keys: list[str], seed: int) -> tuple[float, float]:
    """Returns the seconds of the whole process, and the loss."""
    with tempfile.TemporaryDirectory(prefix="jaxdp_time_to_loss_") as directory:
        command = [sys.executable, "-m", "jaxdp", "train", f"--config={config}", f"--workdir={directory}/run"]
        keys = [f"data.path={path}", f"seed={seed}", *keys]
        caches = {"XDG_CACHE_HOME": f"{directory}/cache", "JAX_COMPILATION_CACHE_DIR": f"{directory}/xla"}
        start = time.perf_counter()
        subprocess.run(
            [*command, *(f"--config.{key}" for key in keys)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | caches, check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        secs = time.perf_counter() - start
        lines = [json.loads(line) for line in Path(directory, "run", "metrics.jsonl").read_text().splitlines()]
        return secs, [line["eval/loss"] for line in lines if "eval/loss" in line][-1]


def main() -> None:
    """Parses the command line and prints both times and losses of every round, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="text of tinyshakespeare")
    parser.add_argument("--config", default="speedrun_cpu")
    parser.add_argument("--keys", default="", help="keys that differ from the recipe's, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nanogpt", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.nanogpt is not None:
        nanogpt(options.path, options.nanogpt)
        return
    if not (Path(os.environ.get("NANOGPT_DIR", "")) / "model.py").is_file():
        parser.error("NANOGPT_DIR must name a checkout of github.com/karpathy/nanoGPT, with model.py in it")
    path, keys = options.path.resolve(), [key for key in options.keys.split(",") if key]
    secs: dict[str, list[float]] = {"nanogpt": [], "jaxdp": []}
    for seed in range(options.rounds):
        for name, (took, loss) in {
            "nanogpt": measure_nanogpt(path, seed),
            "jaxdp": measure_jaxdp(path, options.config, keys, seed),
        }.items():
            secs[name].append(took)
            print(f"seed {seed}  {name:<8} {took:6.1f} s   loss {loss:.4f}", flush=True)
    ratio = statistics.median(secs["jaxdp"]) / statistics.median(secs["nanogpt"])
    print(f"jaxdp takes {ratio:.3f} of nanoGPT's time (medians)")


if __name__ == "__main__":
    main()
