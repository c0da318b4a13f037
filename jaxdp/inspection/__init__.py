"""Inspection of runs, checkpoints and weights of any format, from metadata where that suffices.

Checkpoints of jaxdp, foreign Orbax directories, safetensors files and Hugging Face
folders are described without jax, and without reading arrays.
"""

from jaxdp.inspection.compare import compare_runs
from jaxdp.inspection.describe import describe
from jaxdp.inspection.verifying import verify

__all__ = ["compare_runs", "describe", "verify"]
