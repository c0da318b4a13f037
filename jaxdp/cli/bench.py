"""Benchmarks of a configuration: step time, dispatch, data loading, checkpointing and decoding. Saves no model."""

import argparse
from collections.abc import Callable, Sequence

from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp bench`."""
    shared.add_config(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="number of steps to time")
    parser.add_argument("--devices", metavar="1,2,4", help="numbers of simulated CPU devices to compare")
    parser.add_argument("--data", action="store_true", help="measure only the data pipeline, without model and devices")
    parser.add_argument(
        "--step_ms",
        type=float,
        default=100.0,
        metavar="MS",
        help="with --data: step time in ms, from which the waiting time is computed",
    )
    parser.add_argument("--checks", action="store_true", help="measure the overhead of the checks of a run")
    parser.add_argument("--predict", action="store_true", help="measure decoding speed with and without a KV cache")
    parser.add_argument(
        "--memory", action="store_true", help="show the memory of a device by kind, under each strategy"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a measurement")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp bench` and returns the exit code."""
    config = shared.configuration(options, rest)
    if options.steps < 10:
        raise UserError(f"--steps={options.steps} is too few to time; expected at least 10.")
    if options.data:
        from jaxdp.bench.data import measure_data

        result = measure_data(config, options.step_ms)
        _show(result, _data_as_text, options.json)
        return 0
    if options.predict:
        from jaxdp.bench.decoding import measure_prediction

        result = measure_prediction(config)
        _show(result, _prediction_as_text, options.json)
        return 0
    if options.memory:
        from jaxdp.bench.memory import measure_memory

        results = measure_memory(config)
        for result in results if options.json else ():
            shared.show_json(result)
        if not options.json:
            shared.show(_memory_as_text(results))
        return 0
    from jaxdp.bench import step as benchmark
    from jaxdp.parallel.devices import divide_batch

    if options.checks:
        result = benchmark.measure_checks(config, options.steps)
        _show(result, _checks_as_text, options.json)
        return 0
    if options.devices:
        counts = _counts(options.devices)
        for count in counts:
            divide_batch(config.global_batch_size, config.microbatch_size, count)
        results = benchmark.measure_device_counts(options.config, rest, options.steps, counts)
    else:
        results = [benchmark.measure(config, options.steps)]
    for result in results:
        _show(result, _as_text, options.json)
    return 0


def _show(result: dict, as_text: Callable[[dict], str], as_json: bool) -> None:
    if as_json:
        shared.show_json(result)
    else:
        shared.show(as_text(result))


def _counts(text: str) -> list[int]:
    try:
        return [shared.device_count(count) for count in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--devices={text} must be device counts such as 1,2,4: {error}.") from None


def _data_as_text(result: dict) -> str:
    lines = {
        "loading": f"{result['feed_tokens_per_sec'] / 1e6:,.0f} million tokens/s in one thread, without a model",
        "waiting": f"{result['data_wait']:.2%} of the time at {result['step_ms']:g} ms a step",
        "memory": f"{result['resident_bytes'] / 2**20:,.0f} MiB resident",
    }
    for num_workers, speed in result["prepare_mb_per_sec"].items():
        who = f"{num_workers} worker{'s' if num_workers > 1 else ''}" if num_workers else "this process"
        lines[f"preparing {num_workers}"] = f"{speed:.2f} MB/s of text by {who}, start-up included"
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _prediction_as_text(result: dict) -> str:
    lines = {"devices": f"{result['devices']} x {result['device_kind']}"}
    if "sentences" in result:
        unit = "sentences"
        lines["texts"] = f"{result['sentences']} sentences; {result['uncached_sentences']} of them without a KV cache"
    else:
        unit = "tokens"
        lines["texts"] = f"{result['rows']} prompts of {result['prompt_tokens']} tokens"
    ends = "at the eos token, at most after" if result["ends"] else "always after"
    lines["ends"] = f"{ends} {result['most_tokens']} tokens"
    for name in ("greedy", "beam_4"):
        if name in result:
            each = result[name]
            lines[name] = (
                f"{each['per_sec']:,.2f} {unit}/s ({each['secs']:.1f} s), without a KV cache "
                f"{each['uncached_per_sec']:,.2f}: {each['ratio']:.1f} times faster"
            )
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _as_text(result: dict) -> str:
    low, high = result["step_ms_p10_p90"]
    first, later = result["save_block_ms"]
    lines = {
        "devices": f"{result['devices']} x {result['device_kind']}",
        "step": f"{result['step_ms']:.2f} ms (10 % to 90 %: {low:.2f} to {high:.2f})",
        "throughput": f"{result['tokens_per_sec']:,.0f} tokens/s",
        "dispatch": f"{result['dispatch_ms']:.2f} ms of Python time a step",
        "data": f"{result['host_batch_ms']:.2f} ms to make a batch; waiting {result['data_wait']:.2%} of the time",
        "saving": f"blocks the loop for {later:.0f} ms ({first:.0f} ms the first time), {result['save_total_ms']:.0f} ms in total",
        "compile": f"{result['compile_secs']:.1f} s",
        "memory": f"{result['device_bytes'] / 2**20:.1f} MiB a device",
    }
    if "mfu" in result:
        lines["mfu"] = f"{result['mfu']:.1%}"
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _memory_as_text(results: Sequence[dict]) -> str:
    from jaxdp.bench.memory import KINDS
    from jaxdp.report.terminal import memory_size

    measured = [result for result in results if "refused" not in result]
    lines = [f"{'devices':<12} {measured[0]['devices']} x {measured[0]['device_kind']}"] if measured else []
    lines.append(f"{'a device':<12}" + "".join(f"{result['sync']:>12}" for result in measured))
    for kind in KINDS:
        sizes = [result[kind] for result in measured]
        if any(sizes):
            lines.append(f"{kind.replace('_', ' '):<12}" + "".join(f"{memory_size(size):>12}" for size in sizes))
    lines += [f"{result['sync']} is not available: {result['refused']}" for result in results if "refused" in result]
    return "\n".join(lines)


def _checks_as_text(result: dict) -> str:
    cpu, every = result["cpu"], result["check_every_steps"]

    def shown(key: str) -> str:
        return f"{result[key]:.2f} ms, processor time {cpu[key]:.2f} ms"

    lines = {
        "devices": f"{result['devices']} x {result['device_kind']}",
        "step": f"{shown('step_ms')}, without checks; median of {result['rounds']} rounds",
        "every step": f"{shown('every_step_ms')} more: skipping of bad updates, watchdog",
        "comparison": f"{shown('consistency_ms')} a comparison of the replicas, every {every} steps",
        "total": f"{result['share']:.2%} of a step, processor time {cpu['share']:.2%}",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())
