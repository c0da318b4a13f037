"""Entry point: finds the command, parses its options, turns errors into exit codes."""

import argparse
import difflib
import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from jaxdp.errors import UserError
from jaxdp.parallel.host_memory import keep_freed_memory

COMMANDS = {
    "train": "train a model, or continue a run",
    "eval": "evaluate a checkpoint on a split",
    "generate": "continue a prompt",
    "predict": "label, fill or translate records",
    "inspect": "what a run or checkpoint holds, without its model",
    "prepare": "tokenize the data of a configuration, once for all runs",
    "plot": "draw loss, learning rate and throughput",
    "bench": "measure step time, dispatch, waiting and saving",
    "devices": "what this process sees, and whether it can train",
}
"""Each is a module `jaxdp.cli.<name>` with `add_options(parser)` and `run(options, rest) -> exit code`."""

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a full or broken disk says."""


class _Parser(argparse.ArgumentParser):
    """Options are never abbreviated, and wrong usage is an error like any other."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 2 usage, config or data error, 3 diverged, 4
        damage, 70 anything unforeseen, 75 SIGTERM, 130 Ctrl-C.
    """
    # Orbax narrates its work through absl; what a user must know, we say ourselves.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if argv is None:  # a process of its own, not a call
        keep_freed_memory()
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # here, where a reader that went away is no surprise
        return code
    except UserError as error:
        print(f"jaxdp: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("jaxdp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of stdout went away (`jaxdp inspect ... | head`): nothing left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            where = f"{error.filename} cannot be written or read" if error.filename else "a file cannot be written or read"
            print(f"jaxdp: {where} ({error.strerror}); make room or mend the disk and run the same command again.", file=sys.stderr)
            return 2
        traceback.print_exc()
        print("jaxdp: this is a fault of jaxdp, not of your input; please report it.", file=sys.stderr)
        return 70


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        from jaxdp import __version__

        print(f"jaxdp {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        match = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {match[0]!r}?" if match else f"choose one of: {', '.join(COMMANDS)}."
        raise UserError(f"unknown command {name!r}; {hint}")
    module = importlib.import_module(f"jaxdp.cli.{name}")
    parser = _Parser(prog=f"jaxdp {name}", description=module.__doc__)
    module.add_options(parser)
    options, rest = parser.parse_known_args(argv[1:])
    return module.run(options, rest)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  jaxdp {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "jaxdp: data-parallel Transformer training with JAX.\n\n"
        f"{commands}\n\n"
        "jaxdp COMMAND --help tells the options of one.\n"
        "Exit codes: 0 done, 2 usage, config or data, 3 diverged, 4 damaged checkpoint,\n"
        "70 internal failure, 75 stopped by SIGTERM and saved, 130 by Ctrl-C."
    )
