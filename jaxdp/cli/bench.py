"""Benchmarks of a configuration: step time, dispatch, data loading, checkpointing and decoding. Saves no model."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdp.cli import bench_text
from jaxdp.cli import options as shared
from jaxdp.errors import UserError
from jaxdp.run_config import RunConfig

MODES = {
    "data": "measure only the data pipeline, without model and devices",
    "checks": "measure the overhead of the checks of a run",
    "predict": "measure decoding speed with and without a KV cache",
    "memory": "show the memory of a device by kind, under each strategy",
    "trace": "show the ten costliest operations of a step",
}
"""Options that choose a benchmark other than that of the step."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp bench`."""
    shared.add_config(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="number of steps to time")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--devices", metavar="1,2,4", help="numbers of simulated CPU devices to compare")
    chosen.add_argument(
        "--compare",
        metavar="KEY=A,B",
        help="values of a key to compare, in steps that alternate, such as parallel.sync=pmean,zero3",
    )
    for name, meaning in MODES.items():
        chosen.add_argument(f"--{name}", action="store_true", help=meaning)
    parser.add_argument(
        "--step_ms",
        type=float,
        default=100.0,
        metavar="MS",
        help="with --data: step time in ms, from which the waiting time is computed",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a measurement")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp bench` and returns the exit code."""
    config = shared.configuration(options, rest)
    if options.steps < 10:
        raise UserError(f"--steps={options.steps} is too few to time; expected at least 10.")
    results, as_text = _measure(options, rest, config)
    if options.json:
        for result in results:
            shared.show_json(result)
    else:
        shared.show(as_text(results))
    return 0


Results = list[dict[str, Any]]


def _measure(
    options: argparse.Namespace, rest: Sequence[str], config: RunConfig
) -> tuple[Results, Callable[[Results], str]]:
    """Measures what the options ask for; returns the results and the function that makes text of them."""
    if options.data:
        from jaxdp.bench.data import measure_data

        return [measure_data(config, options.step_ms)], _each(bench_text.data_text)
    if options.predict:
        from jaxdp.bench.decoding import measure_prediction

        return [measure_prediction(config)], _each(bench_text.prediction_text)
    if options.memory:
        from jaxdp.bench.memory import measure_memory

        return measure_memory(config), bench_text.memory_text
    if options.trace:
        from jaxdp.bench.operations import measure_operations

        return [measure_operations(config)], _each(bench_text.operations_text)
    if options.compare is not None:
        from jaxdp.bench.comparison import compare

        settings = _settings(options.compare)
        configs = [shared.configuration(options, [*rest, f"--config.{setting}"]) for setting in settings]
        results = compare(configs, options.steps)
        return [{"setting": setting} | result for setting, result in zip(settings, results, strict=True)], (
            bench_text.comparison_text
        )
    from jaxdp.bench import step as benchmark
    from jaxdp.parallel.devices import divide_batch

    if options.checks:
        return [benchmark.measure_checks(config, options.steps)], _each(bench_text.checks_text)
    if options.devices:
        counts = _counts(options.devices)
        for count in counts:
            divide_batch(config.global_batch_size, config.fixed_microbatch_size, count)
        results = benchmark.measure_device_counts(options.config, rest, options.steps, counts)
    else:
        results = [benchmark.measure(config, options.steps)]
    return results, _each(bench_text.step_text)


def _each(as_text: Callable[[Mapping[str, Any]], str]) -> Callable[[Results], str]:
    """Returns a function that makes text of each result and joins it."""
    return lambda results: "\n".join(map(as_text, results))


def _counts(text: str) -> list[int]:
    try:
        return [shared.device_count(count) for count in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--devices={text} must be device counts such as 1,2,4: {error}.") from None


def _settings(text: str) -> list[str]:
    """Returns the settings `KEY=VALUE` of `KEY=A,B`.

    Raises:
        UserError: There are fewer than two values, or the key is one that a process cannot change.
    """
    key, _, values = text.partition("=")
    settings = [f"{key}={value}" for value in values.split(",")]
    if not key or len(set(settings)) < 2 or len(set(settings)) < len(settings) or not all(values.split(",")):
        raise UserError(
            f"--compare={text} must name a key and different values, such as parallel.sync=pmean,zero3 "
            "or model.remat=none,full."
        )
    if key == "parallel.cpu_devices":
        raise UserError(f"--compare={text} cannot change the devices of a process; use --devices={values}.")
    return settings
