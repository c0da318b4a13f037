"""Benchmarks: step time, input pipeline, decoding, overhead of checks, and a device check."""
