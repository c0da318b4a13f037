"""Entry point of the command line: installs signal handlers, secures the streams, runs the command.

Imports at the top would delay the signal handlers, so all others are inside functions.
"""

from jaxdp import interrupts

COMMANDS = {
    "train": "train a model, or continue a run",
    "eval": "evaluate a checkpoint on a split",
    "generate": "continue a prompt",
    "predict": "classify, fill masks of or translate records",
    "inspect": "show the contents of a run or a checkpoint",
    "import": "make a work directory of a Hugging Face folder",
    "export": "write a checkpoint as a Hugging Face folder",
    "prepare": "tokenize the data of a configuration into the cache",
    "plot": "draw loss, learning rate and throughput",
    "compare": "first step and leaf at which two runs differ, and why",
    "plan": "compile for devices that need not be here: memory, largest microbatch, step time",
    "bench": "measure step time, dispatch, data loading and checkpointing",
    "devices": "show the devices of this process and test them",
}
"""Commands and their summaries; each is a module `jaxdp.cli.<name>` with `add_options(parser)` and `run(options, rest)`."""


def main(argv: "list[str] | None" = None) -> int:
    """Runs one command.

    Args:
        argv: The command and its options, for a call from Python; None: those of this process, in which
            case signals and standard streams are handled too.

    Returns:
        The exit code: 0 done, 2 usage, config or data error, 3 diverged, 4
        damage, 70 internal error, 75 SIGTERM or SIGHUP, 130 Ctrl-C.
    """
    if argv is not None:
        from jaxdp.cli.dispatch import run_command

        return run_command(list(argv))
    try:
        interrupts.install()
        return _run_process()
    except (interrupts.Stopped, KeyboardInterrupt):
        return _end(interrupts.exit_code() or 130)


def _run_process() -> int:
    """Runs the command of this process."""
    import sys

    from jaxdp import streams
    from jaxdp.hardware.host_memory import keep_freed_memory

    streams.secure()
    keep_freed_memory()  # before the first thread starts
    interrupts.watch_main_thread()
    from jaxdp.cli.dispatch import run_command

    code = run_command(sys.argv[1:])
    if interrupts.exit_code():  # the exception may have been caught on its way
        return _end(interrupts.exit_code())
    interrupts.decided(code)
    return code


def _end(code: int) -> int:
    """Ends an interrupted process without the interpreter's shutdown, in which JAX may crash."""
    import os

    from jaxdp import streams

    interrupts.decided(code)
    streams.flush()
    os._exit(code)
