"""Devices and processes, placement on them, and the SPMD program that runs on them."""
