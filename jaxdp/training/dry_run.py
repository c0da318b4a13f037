"""`jaxdp train --dry_run`: the resolved configuration and the report of a run that is not started."""

from ml_collections import ConfigDict

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.experiment.data import read_data
from jaxdp.inference.trained_run import known_vocabularies
from jaxdp.report.terminal import print_status
from jaxdp.training import parts
from jaxdp.training.resume import check_configuration
from jaxdp.training.setup import Composition
from jaxdp.training.startup_report import show_report
from jaxdp.workdir import WorkDir


def dry_run(config: ConfigDict, workdir: str) -> ConfigDict:
    """Does all that training does before step 1, in one process, and writes nothing but the cache of prepared data.

    Args:
        config: From `load_config`.
        workdir: Work directory that the run would use; it is read, not made.

    Returns:
        The configuration that the run would keep in `config.json`.

    Raises:
        UserError: As `train` would, for anything that the user can fix.
    """
    directory = WorkDir(workdir)
    steps = committed_steps(directory.checkpoints)
    data = read_data(config, known_vocabularies(config, directory, steps))
    config = parts.resolve(config, data.vocab_size, data.vocabularies)
    total_steps = parts.count_steps(config, data.train.num_rows if data.train else None)
    if steps:
        check_configuration(config, directory, steps)
    composition = Composition(config, data, total_steps)
    show_report(composition, composition.compile())
    would = f"continue from checkpoint {steps[-1]} of {total_steps} steps" if steps else f"train {total_steps} steps from step 1"
    print_status(f"dry run: nothing was trained; the run would {would} in {directory.root}")
    return config
