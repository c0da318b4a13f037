"""Hardware facts: host memory and malloc settings, peak FLOP/s of accelerators."""
