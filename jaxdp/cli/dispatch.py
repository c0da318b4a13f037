"""Command dispatch: finds the command, parses its options, turns errors into exit codes."""

import argparse
import errno
import importlib
import sys

from jaxdp import interrupts, streams
from jaxdp.cli.main import COMMANDS
from jaxdp.errors import UserCodeError, UserError
from jaxdp.hardware.host_memory import check_address_space


class _Parser(argparse.ArgumentParser):
    """Argument parser without abbreviations that raises UserError for wrong usage."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def run_command(argv: list[str]) -> int:
    """Runs one command.

    Args:
        argv: The command and its options.

    Returns:
        The exit code, see `main`.
    """
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except streams.ResultsLost as lost:
        if lost.error.errno == errno.EPIPE:  # the reader is gone (`jaxdp inspect ... | head`): nothing left to print
            return 0
        return _failed(f"standard output cannot be written ({lost.error.strerror}); redirect it to another file.", 2)
    except UserCodeError as error:
        from jaxdp.user_code import user_traceback

        return _failed(str(error), error.exit_code, user_traceback(error.__cause__ or error))
    except UserError as error:
        return _failed(str(error), error.exit_code)
    except (KeyboardInterrupt, interrupts.Stopped):
        return _failed(interrupts.sentence(), interrupts.exit_code() or 130)
    except Exception as error:
        if code := interrupts.exit_code():  # the interruption was turned into another exception
            return _failed(interrupts.sentence(), code)
        import traceback

        from jaxdp.cli.environment import environment_sentence
        from jaxdp.user_code import user_place, user_sentence, user_traceback

        if place := user_place(error):
            return _failed(user_sentence(error, place), 2, user_traceback(error))
        if why := environment_sentence(error):
            return _failed(why, 2)
        sentence = "this is an internal error, not caused by your input; please report it with the lines above."
        return _failed(sentence, 70, traceback.format_exc())


def _failed(sentence: str, code: int, lines: str = "") -> int:
    """Prints a sentence, and before it the lines of a traceback."""
    from jaxdp.redact import redact

    sys.stderr.write(redact(lines))
    print(f"jaxdp: {redact(sentence)}", file=sys.stderr)
    return code


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
        from jaxdp.nearest import closest

        match = closest(name, COMMANDS)
        hint = f"did you mean {match!r}?" if match else f"choose one of: {', '.join(COMMANDS)}."
        raise UserError(f"unknown command {name!r}; {hint}")
    import logging

    # Orbax logs through absl; jaxdp logs everything that a user needs itself.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    module = importlib.import_module(f"jaxdp.cli.{name}")
    parser = _Parser(prog=f"jaxdp {name}", description=module.__doc__)
    module.add_options(parser)
    options, rest = parser.parse_known_args(argv[1:])
    if name != "plot":
        check_address_space()
    return module.run(options, rest)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  jaxdp {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "jaxdp: data-parallel Transformer training with JAX.\n\n"
        f"{commands}\n\n"
        "jaxdp COMMAND --help shows the options of one.\n"
        "Exit codes: 0 done, 2 usage, config or data, 3 diverged, 4 damaged checkpoint or run files,\n"
        "70 no progress, a lost process or an internal error, 75 stopped by SIGTERM or SIGHUP, 130 by Ctrl-C."
    )
