"""Processes of a plan: one for each target, since JAX's platform plugins and XLA's flags hold for a whole process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jaxdp.plan.targets import Target
from jaxdp.plan.topologies import environment_for
from jaxdp.report.terminal import print_status

PROGRESS = "progress: "
"""Beginning of the lines on stderr of a process that say what it does."""

MAX_LINES = 40
"""Lines of a failed process that are shown."""


def plan_apart(file: str, overrides: Sequence[str], target: Target) -> dict[str, Any]:
    """Returns the plan of a target, made in a process of its own; {"refused": sentence} if there is none.

    Args:
        file: Configuration file, as `--config` names it.
        overrides: `--config.KEY=VALUE` arguments.
        target: Devices to plan for.

    Raises:
        RuntimeError: The process failed.
    """
    command = [sys.executable, "-m", "jaxdp.plan", file, target.text, *overrides]
    environment = os.environ | dict(environment_for(target))
    errors = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout and process.stderr, "both are pipes"
        for line in process.stderr:
            if line.startswith(PROGRESS):
                print_status(line.removeprefix(PROGRESS).rstrip())
            else:  # compilers complain about the devices that are not here, and about many other things
                errors.append(line)
        output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(
            f"the compiler for {target.text} ended with exit code {process.returncode}; its last lines:\n"
            f"{''.join(errors[-MAX_LINES:])}"
        )
    return json.loads(output.splitlines()[-1])
