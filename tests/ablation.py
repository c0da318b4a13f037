"""Ablation of the options that shorten training: validation loss of named variants, several seeds each, one run after another.

    python tests/ablation.py --out=FILE.jsonl --path=tinyshakespeare.txt [--corpus=shakespeare|stdlib] [--steps=200]
        [--seeds=5] [--variants=adamw,normuon,...] [--table]

Every run adds one line to FILE.jsonl, and the script continues where it stopped; `--table` prints what is there. Runs
use one CPU device, so that a loss depends on neither cores nor load. Seeds take turns: all variants meet seed 0 first. A
variant is compared with the one that it changes, NorMuon with AdamW after twice the steps, by Welch's t-test.
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

import jaxdp
from jaxdp.config import parse_config
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup


@dataclasses.dataclass(frozen=True)
class Variant:
    """Keys of a variant that differ from those of another one.

    Attributes:
        base: Name of the variant that it changes; empty: the recipe.
        keys: Configuration keys with their values.
        length: Number of steps as a multiple of `--steps`.
        phases: Parts of the run with keys of their own: (share of the steps, keys); empty: it has no parts.
        compared: Name of the variant whose losses it is compared with; empty: `base`.
    """

    base: str
    keys: dict[str, object]
    length: float = 1
    phases: tuple[tuple[float, dict[str, int]], ...] = ()
    compared: str = ""


VARIANTS = {
    "adamw": Variant(
        "",
        {
            "optim.learning_rate": 3e-3, "optim.warmup_steps": 20, "optim.schedule": "linear",
            "optim.end_learning_rate": 0.0,
        },
    ),
    "adamw_double": Variant("adamw", {}, length=2),
    "normuon": Variant("adamw", {"optim.name": "normuon", "optim.learning_rate": 1.5e-2}, compared="adamw_double"),
    "winners": Variant(
        "normuon",
        {
            "model.positions": "rotary", "model.activation": "relu2", "model.norm": "rmsnorm", "model.qk_norm": True,
            "model.residual_scalars": True, "model.value_embeddings": True, "model.attention_window": 16,
            "optim.learning_rate": 3e-2, "optim.cautious": True, "optim.weight_decay_end": 0.0,
        },
    ),
    "with zero_init_residual": Variant("winners", {"model.zero_init_residual": True}),
    "without qk_norm": Variant("winners", {"model.qk_norm": False}),
    "without residual_scalars": Variant("winners", {"model.residual_scalars": False}),
    "without value_embeddings": Variant("winners", {"model.value_embeddings": False}),
    "without attention_window": Variant("winners", {"model.attention_window": 0}),
    "without cautious": Variant("winners", {"optim.cautious": False, "optim.weight_decay_end": None}),
    "two layers": Variant("winners", {"model.num_layers": 2}),
    "cautious": Variant("normuon", {"optim.cautious": True, "optim.weight_decay_end": 0.0}),
    "ema": Variant("normuon", {"optim.ema_decay": 0.95}),
    "z_loss": Variant("normuon", {"optim.z_loss": 1e-4}),
    "rotary": Variant("normuon", {"model.positions": "rotary"}),
    "relu2": Variant("normuon", {"model.activation": "relu2"}),
    "rmsnorm": Variant("normuon", {"model.norm": "rmsnorm"}),
    "qk_norm": Variant("normuon", {"model.qk_norm": True}),
    "zero_init_residual": Variant("normuon", {"model.zero_init_residual": True}),
    "logit_softcap": Variant("normuon", {"model.logit_softcap": 15.0}),
    "residual_scalars": Variant("normuon", {"model.residual_scalars": True}),
    "value_embeddings": Variant("normuon", {"model.value_embeddings": True}),
    "attention_window": Variant("normuon", {"model.attention_window": 16}),
    "batch 6 to 18": Variant(
        "winners", {}, phases=((1 / 2, {"global_batch_size": 6}), (1 / 2, {"global_batch_size": 18}))
    ),
    "batch 6 to 12": Variant(
        "winners", {}, length=1.5, phases=((2 / 3, {"global_batch_size": 6}), (1 / 3, {}))
    ),
    "length 32 to 64": Variant(
        "winners", {}, phases=((1 / 2, {"data.length": 32, "global_batch_size": 24}), (1 / 2, {}))
    ),
}  # fmt: skip
"""Variants by name; a base stands before what changes it. Those that grow see as many characters as their base."""

CORPORA = {
    "shakespeare": {},
    "stdlib": {
        "data.source": "stdlib", "data.path": None, "data.tokenizer": "byte", "eval.num_batches": 150,
    },
}  # fmt: skip
"""Corpora by name, with their keys. The validation split of the standard library is read in part."""

RECIPE = {"eval.every_steps": 0, "checkpoint.every_steps": 0, "log.every_steps": 1_000_000, "parallel.cpu_devices": 1}


def keys_of(name: str) -> dict[str, object]:
    """Returns all keys of a variant that differ from the recipe."""
    variant = VARIANTS[name]
    return (keys_of(variant.base) if variant.base else {}) | variant.keys


def configuration(variant: str, corpus: str, path: str | None, *, steps: int, seed: int) -> ConfigDict:
    """Returns the configuration of one run."""
    keys = {"data.path": path, "seed": seed, "total_steps": steps} | RECIPE | CORPORA[corpus] | keys_of(variant)
    return jaxdp.load_config("nanogpt_cpu", [f"--config.{key}={value}" for key, value in keys.items()])


def train(config: ConfigDict, phases: Sequence[tuple[float, dict[str, int]]] = ()) -> float:
    """Trains one run; returns the loss on the validation split."""
    if phases:
        return train_in_phases(config, phases)
    with tempfile.TemporaryDirectory(prefix="jaxdp_ablation_") as directory:
        return jaxdp.train(config, directory, handle_signals=False, watchdog=False).metrics["eval/loss"]


def train_in_phases(config: ConfigDict, phases: Sequence[tuple[float, dict[str, int]]]) -> float:
    """Trains one state by the step of each phase in turn; the schedule of the learning rate spans all of them."""
    setup = TrainingSetup(prepare_run(parse_config(config)))
    state, control_word, step = setup.fresh_state(), setup.control_word_maker()(0, 0), 0
    for share, keys in phases:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(keys)
        part = TrainingSetup(prepare_run(parse_config(changed)))
        program, end = part.compile_step(), step + round(share * config.total_steps)
        for batch in itertools.islice(part.loader.batches(step), end - step):
            state, _ = program(state, part.place(batch)[0], control_word)
        step = end
    assert int(state.step) == config.total_steps
    return setup.compile_evaluator()(setup.strategy.eval_params(state))["eval/loss"]


def welch(one: list[float], other: list[float]) -> tuple[float, float]:
    """Returns Welch's t and its two-sided p-value."""
    from scipy import stats

    result = stats.ttest_ind(one, other, equal_var=False)
    return float(result.statistic), float(result.pvalue)


def table(runs: list[dict], corpus: str, steps: int) -> str:
    """Returns the comparison of all variants that have runs, as a Markdown table."""
    losses = {
        name: [
            run["loss"] for run in runs
            if (run["variant"], run["corpus"], run["steps"]) == (name, corpus, round(steps * variant.length))
        ]
        for name, variant in VARIANTS.items()
    }  # fmt: skip
    lines = [
        "| variant | compared with | steps | runs | loss | difference | t | p |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in losses.items():
        if not values:
            continue
        variant = VARIANTS[name]
        compared_with = variant.compared or variant.base
        base = losses.get(compared_with, [])
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        compared = " |  | "
        if min(len(values), len(base)) > 1:
            t, p = welch(values, base)
            compared = f"{statistics.mean(values) - statistics.mean(base):+.4f} | {t:.1f} | {p:.1g}"
        lines.append(
            f"| {name} | {compared_with} | {round(steps * variant.length)} | {len(values)} "
            f"| {statistics.mean(values):.4f}{spread} | {compared} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parses the command line, trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the results, one JSON object a line")
    parser.add_argument("--path", help="text of the corpus shakespeare")
    parser.add_argument("--corpus", choices=CORPORA, default="shakespeare")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names, separated by commas")
    parser.add_argument("--table", action="store_true", help="print the table of the results and train nothing")
    options = parser.parse_args()
    names = options.variants.split(",")
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"--variants has {', '.join(sorted(unknown))}; choose of {', '.join(VARIANTS)}")
    os.environ["JAX_PLATFORMS"] = "cpu"
    runs = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(run["variant"], run["corpus"], run["steps"], run["seed"]) for run in runs}
    for seed, name in itertools.product(range(0 if options.table else options.seeds), names):
        steps = round(options.steps * VARIANTS[name].length)
        if (name, options.corpus, steps, seed) in known:
            continue
        config = configuration(name, options.corpus, options.path, steps=steps, seed=seed)
        loss = train(config, VARIANTS[name].phases)
        runs.append({"variant": name, "corpus": options.corpus, "steps": steps, "seed": seed, "loss": loss})
        with options.out.open("a") as file:
            print(json.dumps(runs[-1]), file=file)
    print(table(runs, options.corpus, options.steps))


if __name__ == "__main__":
    main()
