"""Dry run of training: resolved configuration and startup report, without training."""

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.checkpoint.remote_copy import read_directory
from jaxdp.config import ConfigLike, parse_config
from jaxdp.inference.trained_run import known_vocabularies
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.resume import check_configuration, saved_config
from jaxdp.training.setup import TrainingSetup
from jaxdp.training.startup_report import show_report


def dry_run(config: ConfigLike, workdir: str) -> RunConfig:
    """Runs everything that precedes step 1, in one process; writes nothing but the cache of prepared data.

    Args:
        config: From `load_config`.
        workdir: Work directory that the run would use; it is read, not made.

    Returns:
        The configuration that the run would keep in `config.json`.

    Raises:
        UserError: As `train` would, for anything that the user can fix.
    """
    config, directory = parse_config(config), read_directory(workdir, must_exist=False)
    steps = committed_steps(directory.checkpoints)
    saved = saved_config(directory.checkpoints, steps)
    prepared = prepare_run(config, known_vocabularies(config, directory, steps), saved)
    if steps:
        check_configuration(prepared.config, directory, steps)
    setup = TrainingSetup(prepared)
    show_report(setup, setup.compile())
    would = (
        f"continue from checkpoint {steps[-1]} of {prepared.total_steps} steps"
        if steps
        else f"train {prepared.total_steps} steps from step 1"
    )
    print_status(f"dry run: nothing was trained; the run would {would} in {directory.place}")
    return prepared.config
