"""Fingerprint of parameters: equal for equal values, whatever the format, order and sharding of the files."""

from collections.abc import Mapping
from pathlib import Path

from jaxdp.errors import UserError
from jaxdp.inspection.opening import open_foreign, read_steadily
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.source import ParameterSource


def open_parameters(path: str, step: str = "latest", weights: str = "ema") -> ParameterSource:
    """Opens the parameters at a path of any kind, under the names that their files have.

    Args:
        path: Path, `hf:NAME` or URL.
        step: Checkpoint of a work directory: latest, best or a number.
        weights: ema (where the run has it) or raw.

    Raises:
        UserError: The path is of no known kind.
        DamageFound: It is not whole.
    """

    def open_ours(checkpoint: Path) -> ParameterSource:
        return CheckpointSource(checkpoint, weights=weights)

    return read_steadily(path, step, open_ours) or open_foreign(path, step)


def with_our_names(source: ParameterSource) -> tuple[ParameterSource, str]:
    """Returns parameters under the names of jaxdp where they can be known, with unrolled layers, and what the names are.

    A Hugging Face folder of a known family has the names, shapes and float32 values that `jaxdp import` gives it.
    """
    from jaxdp.interop.views import Unscanned  # imports jax, which a description does without

    if source.config is None:
        return Unscanned(source), "names of the files"
    from jaxdp.interop.hf_folder import HuggingFaceFolder

    try:
        return HuggingFaceFolder(source).parameters, "names of jaxdp"
    except UserError as error:
        return Unscanned(source), f"names of the files, since {str(error).rstrip('.')}"


def fingerprint(path: str, step: str = "latest") -> Mapping[str, str]:
    """Computes the fingerprint of the parameters at a path.

    Returns:
        {"fingerprint", "source", "names"}: SHA-256, what was read, and which names it is over.

    Raises:
        UserError: The path is of no known kind.
        DamageFound: An array cannot be read.
    """
    source, names = with_our_names(open_parameters(path, step))
    return {"fingerprint": source.fingerprint(), "source": source.describe(), "names": names}
