"""Data that `jaxdp eval` measures in place of the run's own: a test split, or other files, split or columns."""

from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.run_config import DATA_PLACES, TEST_DATA, RunConfig

OTHER_DATA = (
    "source", *DATA_PLACES, *TEST_DATA, "name", "split", "eval_split",
    "text_column", "label_column", "source_column", "target_column", "errors", "encoding", "delimiter", "cache_dir", "num_workers",
)  # fmt: skip
"""Keys of `data` that an evaluation may set; all others belong to the run."""

_EVALUATED = ("eval_path", "eval_target_path", "eval_split")
"""Those that name other data to evaluate on."""


def check_keys(given: Mapping[str, Any]) -> None:
    """Raises UserError if a key of `data` belongs to the run and not to an evaluation."""
    for key in given:
        if key not in OTHER_DATA:
            raise UserError(
                f"data.{key} belongs to the run and cannot be set here; an evaluation takes "
                f"{', '.join(f'data.{known}' for known in OTHER_DATA)}."
            )


def other_data(config: RunConfig, split: str, given: Mapping[str, Any]) -> RunConfig | None:
    """Returns the configuration of other data to evaluate on; None: a split of the run's own data is wanted.

    Args:
        config: Configuration of the run.
        split: train, eval or test.
        given: Keys of `data` that were set for this evaluation, see OTHER_DATA.

    Returns:
        A copy, whose `data.eval_path` or `data.eval_split` is what to measure.

    Raises:
        UserError: It is not known what to measure.
    """
    named = {key: given.get(key) for key in _EVALUATED}
    if split == "test":
        named |= {"eval_path": _test(config, given, "test_path"), "eval_split": _test(config, given, "test_split")}
        if not (named["eval_path"] or named["eval_split"]):
            raise UserError(
                "--split=test needs data that the run has not seen: give --config.data.test_path=FILE "
                "(data.source=hf: --config.data.test_split=NAME)."
            )
    if not any(named.values()):
        return None
    if split == "train":
        key = next(key for key in named if named[key])
        raise UserError(f"--split=train is that of the run, but data.{key} names other data: leave one of them out.")
    own = {"name": None} if config.data.source == "python" else {}  # the fingerprint of records that are not read
    other = config.replaced(data={**own, **given, **named, **dict.fromkeys(TEST_DATA), "mixture": ()})
    _check_source(config, other, given, "test" if split == "test" else "eval")
    return other


def described(other: RunConfig) -> str:
    """Returns the name of other data for messages: the files, or the dataset and its split."""
    data = other.data
    return data.eval_path or f"{data.path}, split {data.eval_split}"


def _test(config: RunConfig, given: Mapping[str, Any], key: str) -> Any:
    return given[key] if key in given else getattr(config.data, key)


def _check_source(config: RunConfig, other: RunConfig, given: Mapping[str, Any], kind: str) -> None:
    """Checks that the source of other data is known, and reads what is named; `kind` is eval or test."""
    source = other.data.source
    if "source" not in given and (config.data.mixture or source in ("stdlib", "python")):
        why = (
            "reads data.mixture"
            if config.data.mixture
            else f"was trained with data.source={source}, which reads no files"
        )
        raise UserError(
            f"the run {why}: say how the other data are read, with --config.data.source=text (or jsonl, csv, parquet, hf)."
        )
    needed, useless = ("split", "path") if source in ("hf", "hf_stream") else ("path", "split")
    if getattr(other.data, f"eval_{useless}"):
        raise UserError(
            f"data.{kind}_{useless}={getattr(other.data, f'eval_{useless}')} means nothing with data.source={source}: "
            f"set data.{kind}_{needed} instead."
        )
    if not getattr(other.data, f"eval_{needed}"):
        raise UserError(f"data.source={source} is evaluated on data.{kind}_{needed}, which is not set: set it.")
