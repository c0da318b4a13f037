"""Accelerator check: correctness, memory and speed on the chip of this machine, in one command."""
