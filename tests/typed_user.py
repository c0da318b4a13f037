"""Script of a user, which is type-checked and never run: every public name, with the types that editors must show."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import jaxdp
from jaxdp import Hook, Request, RunInfo, SourceRecords, Task, defaults
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.inference.generate import Sample
from jaxdp.optim import OptimizerConfig
from jaxdp.report.writers import MetricsWriter
from jaxdp.state import TrainState
from jaxdp.tasks import LossSums, TaskInputs
from jaxdp.trainer import StepInfo


class Length(Task):
    """Predicts nothing: declares what a task must declare."""

    fields, eos_fields, packings = ("text",), ("tokens",), ("cut",)
    architectures, model_options = ("decoder",), {"head": "language_model"}

    def __init__(self, inputs: TaskInputs):
        self.length = inputs.length
        self.row_lengths = {"tokens": inputs.length}

    def prepare(self, record: Mapping[str, Any], tokenizer: Any) -> dict[str, np.ndarray]:
        return {"tokens": tokenizer.encode(record["text"])}

    def make_batch(
        self, examples: Mapping[str, np.ndarray], seed: int, step: int, row_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        return {"tokens": examples["tokens"]}

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"tokens": jax.ShapeDtypeStruct((rows, self.length), np.int32)}

    def loss(self, apply: Any, params: Any, batch: Any, row_keys: jax.Array | None, train: bool) -> LossSums:
        logits = apply(params, batch["tokens"], row_keys=row_keys)
        return LossSums(jnp.sum(logits), jnp.ones(()), {})


class Counter(Hook):
    """Counts steps."""

    name, after = "counter", ("logging",)

    def __init__(self, info: RunInfo):
        self.write, self.count = info.write, 0

    def on_step(self, info: StepInfo) -> None:
        self.count += 1

    def wants_state(self, step: int) -> bool:
        return step % 100 == 0

    def on_state(self, step: int, state: TrainState) -> None:
        self.write(step, {"train/count": float(self.count)})

    def request(self) -> int:
        return Request.NONE


class Printer:
    """Writer of metrics."""

    def __init__(self, info: RunInfo):
        self.path = info.workdir / "printed.txt"

    def write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        print(step, metrics)

    def close(self) -> None:
        print(self.path)


def read_numbers(spec: SourceSpec) -> SourceRecords:
    """Yields a text for each number."""

    def rows() -> Iterator[Mapping[str, Any]]:
        yield from ({"text": str(number)} for number in range(100))

    return SourceRecords(fingerprint="1", train=rows)


def sign_descent(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the direction of sign descent."""
    return optax.scale_by_sign() if config.momentum == 0 else optax.scale_by_lion(config.b1, config.b2)


def halving(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Returns a learning rate that halves every 100 updates."""
    return config.learning_rate * 0.5 ** (count // 100)


jaxdp.register_task("length", Length)
jaxdp.register_hook("counter", Counter)
jaxdp.register_writer("printer", Printer)
jaxdp.register_source("numbers", read_numbers)
jaxdp.register_optimizer("sign_descent", sign_descent)
jaxdp.register_schedule("halving", halving)

config = jaxdp.load_config("quickstart", ["--config.total_steps=10"])
as_dict: ConfigDict = config
config.total_steps = 20
config.data.path = "train.txt"

result = jaxdp.train(config, Path("runs/a"), hooks=[Counter], writers=[Printer], data=[{"text": "a"}, {"text": "b"}])
assert_type(result.step, int)
print(result.metrics["eval/loss"] + 1, result.model.num_parameters)
jaxdp.train({"total_steps": 10}, "runs/b", resume="never", handle_signals=False, watchdog=False)
jaxdp.train(defaults.get_config(), "runs/c")

model = jaxdp.load("runs/a", step="best", weights="raw", cpu_devices=2)
assert_type(model, jaxdp.LoadedModel)
assert_type(model.apply(np.zeros((1, 8), np.int32)), jax.Array)
assert_type(model.num_parameters, int)
samples = model.generate(["a", "b"], max_new_tokens=8, strategy=jaxdp.Sampling(temperature=0.5), seed=1)
assert_type(samples, list[Sample])
assert_type(samples[0].text, str)
assert_type(model.generate("a", strategy=jaxdp.BeamSearch(4))[0].tokens, list[int])
assert_type(model.predict([{"text": "a"}]), list[dict[str, Any]])
assert_type(model.evaluate({"eval_path": "test.txt"}), dict[str, Any])
print(model.tokenizer.encode("a")[None])
print(model.config.data.length, model.params)

assert_type(jaxdp.evaluate("runs/a", split="eval"), dict[str, Any])
assert_type(jaxdp.generate("runs/a", "a"), list[Sample])
assert_type(jaxdp.predict("runs/a", ["a"]), list[dict[str, Any]])
print(jaxdp.load_checkpoint("runs/a", step=10).params)

transformer_config = model.model.config
assert_type(transformer_config, jaxdp.TransformerConfig)
params = jaxdp.init_params(transformer_config, jax.random.key(0))
print(jaxdp.Transformer(transformer_config).apply({"params": params}, jnp.zeros((1, 8), jnp.int32)))

writer: MetricsWriter = Printer(RunInfo(model.config, Path("runs/a"), 0, 10, True, lambda step, values: None))
