"""Floors of the package: imports go strictly down them."""

FLOORS = (
    {
        "errors", "user_code", "lock", "trees", "typing", "metrics", "checksum", "nearest", "nested", "paths", "redact", "streams", "interrupts", "quoting",
        "json_files", "atomic_files", "source_code", "arguments", "hardware", "run_config",
    },
    {"model", "optim", "data", "report", "config", "config_diff", "config_file", "defaults", "workdir", "watchdog", "provenance", "cache_home"},
    {"tasks", "parallel", "state"},
    {"step", "evaluation", "checkpoint", "inspection", "decoding", "interop"},
    {"trainer", "hooks"},
    {"inference", "training"},
    {"bench"},
    {"cli", "__init__", "__main__"},
)
"""The parts of each floor, lowest first: files and packages directly under jaxdp/."""
