"""Kept configurations of random runs, with work that is lost, against a ledger of the updates."""

import json
import random

from jaxdp.checkpoint.config_history import config_in_force
from jaxdp.training.run_outputs import _keep_config
from jaxdp.workdir import WorkDir


def test_each_update_keeps_its_configuration(tmp_path):
    num_lost = 0
    for seed in range(200):
        chosen = random.Random(seed)
        run = WorkDir(tmp_path / str(seed))
        run.root.mkdir()
        ledger, starts = [], []  # the configuration of each update that is left, and the steps of the starts
        for _ in range(chosen.randrange(1, 9)):
            first_step = chosen.choice([len(ledger), chosen.randrange(len(ledger) + 1)])
            num_lost += len(ledger) - first_step
            text = chosen.choice("abc")
            _keep_config(run, first_step, text)
            run.config.write_text(text)
            starts.append({"first_step": first_step})
            run.provenance.write_text(json.dumps(starts))
            ledger[first_step:] = text * chosen.choice([0, 1, 2, 5])
        found = [(run.root / config_in_force(run, step)).read_text() for step in range(1, len(ledger) + 1)]
        assert found == ledger, (seed, starts)
    assert num_lost > 500
