"""Environment failures: operating-system errors and exhausted memory, each as one sentence with its fix."""

import errno
import os
import traceback

_MISUSE = frozenset(
    getattr(errno, name)
    for name in ("EBADF", "EINVAL", "EFAULT", "ENOTTY", "ESPIPE", "ECHILD", "ESRCH", "ENOTSOCK", "EDOM", "ERANGE", "ENOSYS", "EPROTOTYPE")
)  # fmt: skip
"""Errors of the system for a wrong call; without a file name they are internal errors."""

_FIXES = (
    (("ENOSPC", "EDQUOT", "EFBIG"), "make room and run the same command again"),
    (("EROFS", "EACCES", "EPERM"), "change its permissions or choose another place"),
    (("EIO", "ESTALE", "EREMOTEIO", "ENXIO", "ENODEV"), "check the disk or file system and run the same command again"),
    (("ENOLCK", "EOPNOTSUPP", "ENOTSUP"), "its file system does not support this; choose a directory on another one"),
    (
        ("ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ELOOP", "ENAMETOOLONG", "ENOTEMPTY", "EINVAL", "EXDEV"),
        "check the path",
    ),
    (("EMFILE", "ENFILE"), "allow more open files (ulimit -n) and run the same command again"),
    (("ENOMEM", "EAGAIN"), "free memory or allow more processes (ulimit -u, ulimit -v) and run the same command again"),
)
"""Names of error numbers, and the fix for each group."""

_RETRY = "check the machine and its network, and run the same command again"


def environment_sentence(error: BaseException) -> str | None:
    """Returns the message for an error caused by the machine; None for any other error.

    An `OSError` is caused by the machine unless it reports a wrong call or has no
    number, as errors that libraries raise themselves.
    """
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        detail = " ".join(str(error).split())
        return (
            f"memory is exhausted{f' ({detail[:200]})' if detail else ''}; make the model, microbatch_size or data.length "
            "smaller, or free memory, and run the same command again."
        )
    if _is_jax_setting(error):
        return f"JAX cannot be imported: {error}; correct or unset the environment variable."
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.filename is None and error.errno in _MISUSE:
        return None
    where = (
        "a file or connection"
        if error.filename is None
        else os.fsdecode(error.filename)
        if isinstance(error.filename, str | bytes)
        else str(error.filename)
    )
    if error.filename2 is not None:
        where += f" or {error.filename2}"
    return f"{where} cannot be used ({error.strerror or error}); {_fix(error.errno)}."


def _fix(number: int) -> str:
    for names, fix in _FIXES:
        if any(number == getattr(errno, name, None) for name in names):
            return fix
    return _RETRY


def _is_out_of_memory(error: BaseException) -> bool:
    """Returns whether XLA could not allocate memory; compares names, since jax may not be imported."""
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and str(error).startswith(
        "RESOURCE_EXHAUSTED"
    )


def _is_jax_setting(error: BaseException) -> bool:
    """Returns whether JAX rejected the value of an environment variable while it was imported."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, ValueError)
        and bool(frames)
        and frames[-1].filename.endswith(os.path.join("jax", "_src", "config.py"))
    )
