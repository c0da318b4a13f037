"""Data parallelism: devices, processes, array placement, SPMD programs and the control plane."""
