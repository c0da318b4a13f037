"""Plan of one target in a process of its own: `python -m jaxdp.plan FILE TARGET [--config.KEY=VALUE ...]`.

Platform plugins of JAX and the flags of XLA hold for a whole process, so `jaxdp plan` starts one for each target. The last
line of stdout is a JSON object: the plan, or {"refused": sentence}.
"""

import json
import os
import sys

from jaxdp.config import load_config, parse_config
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.plan.apart import PROGRESS
from jaxdp.plan.targets import parse_target
from jaxdp.plan.topologies import environment_for


def main(arguments: list[str]) -> None:
    """Prints the plan of a target."""
    file, text, *overrides = arguments
    target = parse_target(text)
    os.environ.update(environment_for(target))  # read when JAX starts its backends
    from jaxdp.plan.plan import plan_target

    try:
        config = parse_config(load_config(file, overrides))
        result = plan_target(
            config, target, lambda what: print(f"{PROGRESS}{text}: compiling {what}", file=sys.stderr, flush=True)
        )
    except UserError as error:
        result = {"refused": str(error)}
    print(json.dumps(nullify_non_finite(result), allow_nan=False))


if __name__ == "__main__":
    main(sys.argv[1:])
