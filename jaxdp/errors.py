"""Errors that a user can cause or must act on, each with its exit code.

Every message is one or two sentences: what, where, expected, found, fix. The
command line prints the message without a traceback and exits with `exit_code`;
any other exception is an internal error and shows its traceback.
"""


class UserError(Exception):
    """Wrong usage, configuration or data, which the user can fix; nothing was lost."""

    exit_code = 2


class UserCodeError(UserError):
    """Exception in the user's own code, which is its cause; the command line shows the traceback of the cause first."""


class TrainingDiverged(UserError):
    """Training diverged, with non-finite updates or loss spikes, and cannot continue."""

    exit_code = 3


class DamageFound(UserError):
    """The bytes of a checkpoint differ from those that were written."""

    exit_code = 4


class ReplicasDiffer(UserError):
    """The replicas of the state differ between devices; launchers restart the run from its last checkpoint."""

    exit_code = 70


class ProcessLost(UserError):
    """Another process of the run is missing or has stopped, so this one cannot continue."""

    exit_code = 70

    def __init__(self, sentence: str, exit_code: int = 70):
        super().__init__(sentence)
        self.exit_code = exit_code
