"""Options shared by several commands, and printing of results."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp import defaults
from jaxdp.arguments import SYNCS
from jaxdp.config import load_config, parse_config
from jaxdp.config_file import recipes_directory
from jaxdp.config_values import MAX_CPU_DEVICES
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.nearest import closest
from jaxdp.redact import escape_json_controls, redact
from jaxdp.run_config import RunConfig


def add_cpu_devices(parser: argparse.ArgumentParser, uses_devices: bool = True) -> None:
    """Adds `--cpu_devices`, which every command accepts so that a script can pass it to all."""
    parser.add_argument(
        "--cpu_devices",
        type=device_count,
        metavar="N",
        help="simulate N CPU devices and use no accelerator (overrides parallel.cpu_devices)"
        if uses_devices
        else "accepted by every command; this one uses no devices",
    )


def device_count(text: str) -> int:
    """Parses a number of simulated CPU devices, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_CPU_DEVICES:
        raise argparse.ArgumentTypeError(f"{text} is not a number of devices from 1 to {MAX_CPU_DEVICES}")
    return int(text)


def utf8_text(argument: str) -> str:
    """Decodes a string argument as UTF-8, whatever the locale, for argparse."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which only a call from Python can give
        return argument
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"byte {error.start} of the text is not UTF-8") from None


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config`; if not required, the command falls back to the configuration of the run in `--workdir`."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="configuration file, name of a packaged recipe, or config.json of a run"
        + ("" if required else "; not needed to continue the run in --workdir"),
    )
    parser.epilog = (
        "Keys of the configuration on the command line override the file:\n"
        "  --config.optim.learning_rate=3e-4 --config.total_steps=1000 --config.data.path=None (unset)\n"
        f"All keys are described in {defaults.__file__}.\n"
        f"Packaged recipes, e.g. --config=quickstart, are in {recipes_directory()}."
    )


def add_workdir(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--workdir`."""
    parser.add_argument("--workdir", required=required, metavar="DIR", help="work directory of the run")


def add_choice_of_weights(parser: argparse.ArgumentParser) -> None:
    """Adds `--step` and `--weights`."""
    parser.add_argument("--step", default="latest", metavar="N|latest|best", help="step of the checkpoint")
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="ema: moving average of the parameters, if the run has one; raw: the parameters",
    )


def add_sync(parser: argparse.ArgumentParser) -> None:
    """Adds `--sync`."""
    parser.add_argument(
        "--sync",
        choices=SYNCS,
        help="pmean: parameters whole on every device; zero3: sharded, gathered layer by layer; default: zero3 if the run "
        "was trained so",
    )


def configuration(options: argparse.Namespace, rest: Sequence[str]) -> RunConfig:
    """Returns the configuration of `--config`, `--config.KEY=VALUE` and `--cpu_devices`."""
    refuse_rest(options, [argument for argument in rest if not argument.startswith(("--config.", "--noconfig."))])
    config = parse_config(
        load_config(_config_of_run(options.workdir) if options.config is None else options.config, rest)
    )
    return config if options.cpu_devices is None else config.replaced(parallel={"cpu_devices": options.cpu_devices})


def _config_of_run(workdir: str) -> str:
    """Returns the path of the configuration of the run in a work directory.

    Raises:
        UserError: No run has been started there.
    """
    from jaxdp.checkpoint.remote_copy import read_directory

    directory = read_directory(workdir)
    if why := directory.why_no_run():
        raise UserError(
            f"--config is missing, and --workdir={workdir} holds no run to continue ({why}); give --config=FILE."
        )
    return str(directory.config)


def refuse_rest(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Raises UserError if arguments are left that the command does not know."""
    if rest:
        name = rest[0].split("=", 1)[0]
        if not name.startswith("-"):
            raise UserError(f"{rest[0]!r} is not understood; options are given as --NAME=VALUE.")
        match = closest(name, [f"--{known}" for known in vars(options)])
        raise UserError(f"unknown option {name}" + (f"; did you mean {match}?" if match else "."))


def show(text: object) -> None:
    """Prints text to stdout, without control characters and without secrets in URLs."""
    print(redact(str(text)))


def show_json(result: Mapping[str, Any], indent: int | None = None) -> None:
    """Prints a JSON object to stdout."""
    print(as_json(result, indent))


def as_json(result: Mapping[str, Any], indent: int | None = None) -> str:
    """Returns JSON with null for numbers that are not finite, as in metrics.jsonl.

    Control characters, which a terminal interprets, and unpaired surrogates, which cannot be encoded, are escaped.
    """
    return escape_json_controls(
        json.dumps(nullify_non_finite(result), ensure_ascii=False, allow_nan=False, indent=indent)
    )
