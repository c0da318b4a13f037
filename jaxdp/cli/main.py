"""Entry point: signal handlers first, then the streams, then the command.

What is imported here at the top delays the handlers, so everything else is imported inside.
"""

from jaxdp import interrupts

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


def main(argv: "list[str] | None" = None) -> int:
    """Runs one command.

    Args:
        argv: The command and its options, for a call from Python; None: those of this process, whose
            signals and standard streams then are handled too.

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
    keep_freed_memory()  # before there is a thread
    interrupts.watch_main_thread()
    from jaxdp.cli.dispatch import run_command

    code = run_command(sys.argv[1:])
    if interrupts.exit_code():  # it may have been swallowed on its way
        return _end(interrupts.exit_code())
    interrupts.decided(code)
    return code


def _end(code: int) -> int:
    """Ends an interrupted process before the interpreter takes itself apart, which JAX, interrupted, may not survive."""
    import os

    from jaxdp import streams

    interrupts.decided(code)
    streams.flush()
    os._exit(code)
