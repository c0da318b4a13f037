"""A trained run opened for reading: its configuration, checkpoint and vocabularies, compared with each other."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from jaxdp.checkpoint.lookup import find_checkpoint
from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.checkpoint.remote_copy import read_directory
from jaxdp.checkpoint.run_files import check_run_config, check_run_files, run_of
from jaxdp.config import read_run_config
from jaxdp.data.named_files import NamedFiles, check_named_files
from jaxdp.data.vocabularies import NONE, Vocabularies, load_vocabularies, read_eos_ids
from jaxdp.errors import UserError
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.hf_folder import tokenizer_of
from jaxdp.interop.init_rules import MATCH_TOKENS, parse_rules
from jaxdp.interop.open_source import open_source
from jaxdp.run_config import RunConfig
from jaxdp.tasks.make import make_task
from jaxdp.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """One checkpoint of a run, with what gives its arrays their meaning.

    Attributes:
        directory: Its work directory.
        config: Its configuration.
        checkpoint: Directory of the checkpoint.
        vocabularies: Its tokenizers and labels; without those that the run has none of.
    """

    directory: WorkDir
    config: RunConfig
    checkpoint: Path
    vocabularies: Vocabularies


def open_run(workdir: str | os.PathLike[str], step: str = "latest") -> TrainedRun:
    """Opens a run.

    Args:
        workdir: Its work directory.
        step: latest, best or a number.

    Raises:
        UserError: There is no run or no such checkpoint; a file cannot be read; or `config.json` describes
            another run than the checkpoint.
        DamageFound: The checkpoint, a tokenizer or the labels are not what was written.
    """
    directory = read_directory(workdir)
    directory.require_run()
    config = read_run_config(directory.config)
    while True:
        checkpoint = find_checkpoint(str(directory.root), step, config.eval.metric)
        try:
            check_run_config(checkpoint, directory.config)
            return TrainedRun(directory, config, checkpoint, _vocabularies(directory, config, checkpoint))
        except UserError:
            if checkpoint.is_dir():
                raise
            # The run that trains there has deleted it meanwhile, and has saved a newer one before.


def known_vocabularies(config: RunConfig, directory: WorkDir, steps: Sequence[int]) -> Vocabularies:
    """Loads the vocabularies that a run has before it reads its data.

    One that resumes has its own. One that starts from another has the tokenizers of
    that, whose parameters are about their tokens, unless `init_rules` match the tokens of
    its own; labels are of the data. Both are compared with the checkpoint that the
    parameters come from.

    Args:
        config: Its configuration.
        directory: Its work directory.
        steps: Its checkpoints.

    Raises:
        UserError: `init_from` names no checkpoint, a file is missing or cannot be read, or a file that
            the configuration names is not what it was when the run began.
        DamageFound: A file is not what the checkpoint was trained with.
    """
    if steps:
        checkpoints = (directory.checkpoints / str(step) for step in reversed(steps))
        newest = next((checkpoint for checkpoint in checkpoints if read_manifest(checkpoint) is not None), None)
        known = load_vocabularies(directory) if newest is None else _vocabularies(directory, config, newest)
        check_named_files(config.data, known.files, directory.root)
        return known
    if not config.init_from or has_own_tokenizer(config):
        return NONE
    return initial_vocabularies(config)


def has_own_tokenizer(config: RunConfig) -> bool:
    """Returns whether a run that starts from another model keeps the tokenizer of its own configuration."""
    return any(rule.verb == MATCH_TOKENS for rule in parse_rules(config.init_rules))


def initial_vocabularies(config: RunConfig) -> Vocabularies:
    """Loads the tokenizers of the model that `init_from` names, as far as it has any; raises as `known_vocabularies`."""
    assert config.init_from is not None, "the run starts from no other model"
    source = open_source(config.init_from)
    if not isinstance(source, CheckpointSource):
        tokenizer = tokenizer_of(source)
        if tokenizer is None:
            return NONE
        return Vocabularies(tokenizer=tokenizer, other_eos_ids=read_eos_ids(source.path))
    checkpoint = source.checkpoint
    other = WorkDir(checkpoint.parent.parent)
    if run_of(checkpoint) is not None:
        check_run_files(checkpoint, other)
    return dataclasses.replace(load_vocabularies(other), labels=None, files=NamedFiles())


def _vocabularies(directory: WorkDir, config: RunConfig, checkpoint: Path) -> Vocabularies:
    check_run_files(checkpoint, directory)
    for path in _needed_files(directory, config):
        if not path.exists():
            raise UserError(
                f"{path} is missing, which the run was trained with: restore it from a copy, or train a new run."
            )
    return load_vocabularies(directory)


def _needed_files(directory: WorkDir, config: RunConfig) -> list[Path]:
    """Vocabularies that the run has; only one of ready-made tokens has no tokenizer."""
    if config.data.source == "tokens" and not config.data.mixture:
        return []
    needed = [directory.tokenizer]
    if config.data.target_tokenizer is not None:
        needed.append(directory.target_tokenizer)
    if make_task(config).uses_labels:
        needed.append(directory.labels)
    return needed
