"""The errors a user can cause or must act on, each with its exit code.

Every message is one sentence or two: what, where, what was expected, what was
found, and the fix. The command line prints the message without a traceback
and exits with `exit_code`; any other exception is our bug and shows one.
"""


class UserError(Exception):
    """Wrong usage, configuration or data: nothing was lost, the user can fix it."""

    exit_code = 2


class UserCodeError(UserError):
    """An exception in code of the user, its cause; the command line shows the traceback of that before the sentence."""


class TrainingDiverged(UserError):
    """The run produced non-finite updates and cannot usefully go on."""

    exit_code = 3


class DamageFound(UserError):
    """A checkpoint's bytes are not those that were written."""

    exit_code = 4


class ReplicasDiffer(UserError):
    """The devices no longer hold the same state; launchers start the run again from its last checkpoint."""

    exit_code = 70


class ProcessLost(UserError):
    """Another process of the run is missing, stopped or is gone: this one cannot go on."""

    exit_code = 70

    def __init__(self, sentence: str, exit_code: int = 70):
        super().__init__(sentence)
        self.exit_code = exit_code
