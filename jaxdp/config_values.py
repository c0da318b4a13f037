"""Allowed values of configuration keys: types, ranges and words, and the messages about others."""

import math
from typing import Any

from jaxdp.errors import UserError

MAX_CPU_DEVICES = 256
"""Maximum number of fake CPU devices: each is a thread that waits for all others, and larger numbers hang."""

_MAX_SECS = 10**8
"""Maximum of timeouts in seconds (three years): JAX derives 32-bit timeouts from them."""

_NOT_NEGATIVE = ("0 or more", lambda value: value >= 0)
_OFF_OR_MORE = ("0 (off) or more", lambda value: value >= 0)
_AT_LEAST_ONE = ("1 or more", lambda value: value >= 1)
_SHARE = ("at least 0 and below 1", lambda value: 0 <= value < 1)

RANGES = {
    "seed": ("from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),  # the range of a random seed in JAX
    "global_batch_size": _AT_LEAST_ONE,
    "data.temperature": ("above 0", lambda value: value > 0),
    "data.shuffle_buffer": _NOT_NEGATIVE,
    "data.num_workers": _NOT_NEGATIVE,
    "data.prefetch_batches": _AT_LEAST_ONE,
    "model.vocab_size": _AT_LEAST_ONE,
    "optim.ema_decay": _SHARE,
    "optim.label_smoothing": _SHARE,
    "optim.z_loss": _NOT_NEGATIVE,
    "optim.spike_factor": ("0 (off) or above 1", lambda value: value == 0 or value > 1),
    "optim.max_skipped_in_a_row": _AT_LEAST_ONE,
    "optim.max_rollbacks": _NOT_NEGATIVE,
    "parallel.cpu_devices": (f"from 1 to {MAX_CPU_DEVICES}", lambda value: 1 <= value <= MAX_CPU_DEVICES),
    "parallel.delay_steps": _AT_LEAST_ONE,
    "parallel.num_workers": _AT_LEAST_ONE,
    "parallel.local_steps": _AT_LEAST_ONE,
    "parallel.local_fragments": _AT_LEAST_ONE,
    "parallel.outer_learning_rate": ("above 0", lambda value: value > 0),
    "parallel.outer_momentum": _SHARE,
    "parallel.bucket_mb": ("above 0", lambda value: value > 0),
    "parallel.check_every_steps": _OFF_OR_MORE,
    "parallel.watchdog_secs": (f"from 0 (off) to {_MAX_SECS}", lambda value: 0 <= value <= _MAX_SECS),
    "parallel.init_timeout_secs": (f"above 0, at most {_MAX_SECS}", lambda value: 0 < value <= _MAX_SECS),
    "eval.every_steps": _OFF_OR_MORE,
    "eval.num_batches": _NOT_NEGATIVE,
    "eval.patience": _OFF_OR_MORE,
    "eval.num_scored": _OFF_OR_MORE,
    "eval.num_beams": _AT_LEAST_ONE,
    "checkpoint.every_steps": _OFF_OR_MORE,
    "checkpoint.every_minutes": _OFF_OR_MORE,
    "checkpoint.keep_latest": _AT_LEAST_ONE,
    "checkpoint.keep_best": _NOT_NEGATIVE,
    "checkpoint.keep_every_steps": _OFF_OR_MORE,
    "checkpoint.grace_secs": _NOT_NEGATIVE,
    "log.every_steps": _OFF_OR_MORE,
    "log.norms_every_steps": _OFF_OR_MORE,
    "log.samples": _OFF_OR_MORE,
    "log.resources_every_secs": (f"from 0 (off) to {_MAX_SECS}", lambda value: 0 <= value <= _MAX_SECS),
}
"""Key -> (expected range in words, check), for numbers that no other module checks."""

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", tuple: "a tuple"}
"""Types of configuration values, for messages."""

AUTO = "auto"
"""Value of `microbatch_size` for the largest that fits the devices."""

CHOICES_OF_WORDS = {"microbatch_size": (AUTO,)}
"""Key whose value is a number -> words that may stand for one."""


def check_type(key: str, value: Any, kind: type, may_be_unset: bool) -> None:
    """Raises UserError if a value is not of the type of its key."""
    if value is None and may_be_unset:
        return
    accepted = (float, int) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        words = "".join(f" or {word!r}" for word in CHOICES_OF_WORDS.get(key, ()))
        raise UserError(f"{key}={value!r} must be {TYPE_NAMES[kind]}{words}.")


def check_range(key: str, value: Any) -> None:
    """Raises UserError if a number is out of the range of its key, or not finite."""
    if key not in RANGES or value is None:
        return
    expected, is_valid = RANGES[key]
    if not (math.isfinite(value) and is_valid(value)):
        raise UserError(f"{key}={value} must be {expected}.")
