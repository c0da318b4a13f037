"""Plans of a configuration on devices that need not be here: memory, largest microbatch, collectives, step time. Reads no data."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxdp.cli import options as shared
from jaxdp.errors import UserError
from jaxdp.paths import local_path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp plan`."""
    shared.add_config(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument(
        "--for",
        dest="targets",
        required=True,
        metavar="TARGET[,TARGET ...]",
        help="devices to plan for: v5e:4x4, h100:8, ...; here: this machine",
    )
    parser.add_argument(
        "--scale", action="store_true", help="also predict step time and efficiency on 1 to 4,096 such devices"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the prediction of --scale as PNG, PDF or SVG")
    parser.add_argument("--json", action="store_true", help="print one JSON object a target")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp plan` and returns the exit code."""
    config = shared.configuration(options, rest)
    from jaxdp.plan.apart import plan_apart
    from jaxdp.plan.report import plans_as_text
    from jaxdp.plan.targets import check_divides, check_extra, parse_targets

    picture = None if options.plot is None else _picture(options.plot)
    targets = parse_targets(options.targets)
    for target in targets:
        check_divides(target, config.global_batch_size, config.fixed_microbatch_size)
        check_extra(target)
    overrides = [*rest]
    if options.cpu_devices is not None:
        overrides.append(f"--config.parallel.cpu_devices={options.cpu_devices}")
    plans = []
    for target in targets:
        plan = {"target": target.text} | plan_apart(options.config, overrides, target)
        plans.append(plan)
        if options.json:
            shared.show_json(plan)
    if not options.json:
        shared.show(plans_as_text(plans, options.scale or picture is not None))
    planned = {plan["target"]: plan["scaling"] for plan in plans if "refused" not in plan}
    if picture and planned:
        from jaxdp.report.scaling_plot import plot_scaling

        path = plot_scaling(planned, picture)
        if not options.json:
            shared.show(f"\n{path}")
    refused = [plan for plan in plans if "refused" in plan]
    if refused:
        raise UserError(refused[0]["refused"])
    return 0


def _picture(name: str) -> Path:
    """Returns the path of the picture; raises UserError if it has another format."""
    from jaxdp.report.scaling_plot import check_picture

    path = local_path(name, "--plot")
    check_picture(path)
    return path
