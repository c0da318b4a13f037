"""Text of benchmark results, as `jaxdp bench` prints them without `--json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.report.terminal import memory_size

Result = Mapping[str, Any]


def data_text(result: Result) -> str:
    """Returns the text of `bench.data.measure_data`."""
    lines = {
        "loading": f"{result['feed_tokens_per_sec'] / 1e6:,.0f} million tokens/s in one thread, without a model",
        "waiting": f"{result['data_wait']:.2%} of the time at {result['step_ms']:g} ms a step",
        "memory": f"{result['resident_bytes'] / 2**20:,.0f} MiB resident",
    }
    for num_workers, speed in result["prepare_mb_per_sec"].items():
        who = f"{num_workers} worker{'s' if num_workers > 1 else ''}" if num_workers else "this process"
        lines[f"preparing {num_workers}"] = f"{speed:.2f} MB/s of text by {who}, start-up included"
    return _table(lines)


def prediction_text(result: Result) -> str:
    """Returns the text of `bench.decoding.measure_prediction`."""
    lines = {"devices": _devices(result)}
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
    return _table(lines)


def step_text(result: Result) -> str:
    """Returns the text of `bench.step.measure`."""
    low, high = result["step_ms_p10_p90"]
    first, later = result["save_block_ms"]
    lines = {
        "devices": _devices(result),
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
    return _table(lines)


def memory_text(results: Sequence[Result]) -> str:
    """Returns the text of `bench.memory.measure_memory`: a column for each strategy."""
    from jaxdp.bench.memory import KINDS

    measured = [result for result in results if "refused" not in result]
    lines = [f"{'devices':<12} {_devices(measured[0])}"] if measured else []
    lines.append(f"{'a device':<12}" + "".join(f"{result['sync']:>12}" for result in measured))
    for kind in KINDS:
        sizes = [result[kind] for result in measured]
        if any(sizes):
            lines.append(f"{kind.replace('_', ' '):<12}" + "".join(f"{memory_size(size):>12}" for size in sizes))
    lines += [f"{result['sync']} is not available: {result['refused']}" for result in results if "refused" in result]
    return "\n".join(lines)


def checks_text(result: Result) -> str:
    """Returns the text of `bench.overhead.measure_checks`."""
    cpu, every = result["cpu"], result["check_every_steps"]

    def shown(key: str) -> str:
        return f"{result[key]:.2f} ms, processor time {cpu[key]:.2f} ms"

    lines = {
        "devices": _devices(result),
        "step": f"{shown('step_ms')}, without checks; median of {result['rounds']} rounds",
        "every step": f"{shown('every_step_ms')} more: skipping of bad updates, watchdog",
        "comparison": f"{shown('consistency_ms')} a comparison of the replicas, every {every} steps",
        "total": f"{result['share']:.2%} of a step, processor time {cpu['share']:.2%}",
    }
    return _table(lines)


def comparison_text(results: Sequence[Result]) -> str:
    """Returns the text of `bench.comparison.compare`, with the `setting` of each: a line for each setting."""
    first, width = results[0], max(len(result["setting"]) for result in results)
    lines = [f"{_devices(first)}; medians of {first['rounds']} rounds that alternate, {first['steps']} steps of each"]
    for result in results:
        low, high = result["ratio_min_max"]
        lines.append(
            f"{result['setting']:<{width}}  {result['step_ms']:9.2f} ms  {result['tokens_per_sec']:11,.0f} tokens/s  "
            f"{memory_size(result['device_bytes']):>10} a device"
            + (f"  {result['ratio']:.3f} of the first's time ({low:.2f} to {high:.2f})" if result is not first else "")
        )
    return "\n".join(lines)


def operations_text(result: Result) -> str:
    """Returns the text of `bench.operations.measure_operations`: a line for each operation."""
    lines = [
        f"{_devices(result)}; {result['step_ms']:.2f} ms a step, {result['busy']:.1%} of it with an operation running; "
        f"{result['operation_ms']:.2f} ms of operations"
    ]
    for each in result["operations"]:
        lines.append(
            f"{each['share']:6.1%} {each['ms']:9.3f} ms  {each['count']:7g} times  {each['name'][:40]:<40}  "
            f"{each['source'][-80:]}".rstrip()
        )
    return "\n".join(lines)


def _devices(result: Result) -> str:
    return f"{result['devices']} x {result['device_kind']}"


def _table(lines: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())
