"""Measure a configuration: step time, dispatch, waiting for data, saving, writing. Trains nothing that is kept."""

import argparse
from collections.abc import Callable, Sequence

from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_config(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps to time")
    parser.add_argument("--devices", metavar="1,2,4", help="compare numbers of fake CPU devices")
    parser.add_argument("--data", action="store_true", help="measure the data alone: no model, no devices")
    parser.add_argument(
        "--step_ms", type=float, default=100.0, metavar="MS", help="with --data: a step's time, to see what would be waited"
    )
    parser.add_argument("--checks", action="store_true", help="what watching over a run costs, with and without in turns")
    parser.add_argument("--predict", action="store_true", help="how fast texts are written, with and without a cache")
    parser.add_argument("--json", action="store_true", help="print one JSON object a measurement")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    config = shared.configuration(options, rest)
    if options.steps < 10:
        raise UserError(f"--steps={options.steps} is too few to time; give 10 or more.")
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
        raise UserError(f"--devices={text} must be counts such as 1,2,4: {error}.") from None


def _data_as_text(result: dict) -> str:
    lines = {
        "feeding": f"{result['feed_tokens_per_sec'] / 1e6:,.0f} million tokens/s by one thread, no model",
        "waiting": f"{result['data_wait']:.2%} of steps of {result['step_ms']:g} ms",
        "memory": f"{result['resident_bytes'] / 2**20:,.0f} MiB resident",
    }
    for num_workers, speed in result["prepare_mb_per_sec"].items():
        who = f"{num_workers} worker{'s' if num_workers > 1 else ''}" if num_workers else "this process alone"
        lines[f"preparing {num_workers}"] = f"{speed:.2f} MB/s of text by {who}, starting included"
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _prediction_as_text(result: dict) -> str:
    lines = {"devices": f"{result['devices']} x {result['device_kind']}"}
    if "sentences" in result:
        unit = "sentences"
        lines["texts"] = f"{result['sentences']} sentences; {result['uncached_sentences']} of them without a cache"
    else:
        unit = "tokens"
        lines["texts"] = f"{result['rows']} prompts of {result['prompt_tokens']} tokens"
    ends = "they end where the model ends them, at most after" if result["ends"] else "they never end before"
    lines["ends"] = f"{ends} {result['most_tokens']} tokens"
    for name in ("greedy", "beam_4"):
        if name in result:
            each = result[name]
            lines[name] = (
                f"{each['per_sec']:,.2f} {unit}/s ({each['secs']:.1f} s), without a cache "
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
        "dispatch": f"{result['dispatch_ms']:.2f} ms of Python a step",
        "data": f"{result['host_batch_ms']:.2f} ms to make a batch; waited {result['data_wait']:.2%} of the time",
        "saving": f"holds the loop {later:.0f} ms (the first time {first:.0f} ms), {result['save_total_ms']:.0f} ms in all",
        "compile": f"{result['compile_secs']:.1f} s",
        "memory": f"{result['device_bytes'] / 2**20:.1f} MiB a device",
    }
    if "mfu" in result:
        lines["mfu"] = f"{result['mfu']:.1%}"
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _checks_as_text(result: dict) -> str:
    cpu, every = result["cpu"], result["check_every_steps"]

    def shown(key: str) -> str:
        return f"{result[key]:.2f} ms, processor time {cpu[key]:.2f} ms"

    lines = {
        "devices": f"{result['devices']} x {result['device_kind']}",
        "step": f"{shown('step_ms')}, without any check; median of {result['rounds']} rounds",
        "every step": f"{shown('every_step_ms')} more: bad updates skipped, watchdog",
        "comparison": f"{shown('consistency_ms')} for one of the devices' states, every {every} steps",
        "together": f"{result['share']:.2%} of a step, processor time {cpu['share']:.2%}",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())
