"""Trial run of an untrusted tokenizer.json in a separate process, and panics of the library as errors.

A regular expression of a tokenizer can take exponential time, or a chain of replacements exponential memory, for texts
of a few characters. The library has no limit that ends with an error: Oniguruma stops a single match after 10 million
steps with a panic, and a process without memory is killed. A file with patterns or replacements therefore first encodes
runs of equal characters in a child process with limits on processor time and memory. If its patterns pass, Oniguruma
still bounds each match on other texts, and a panic becomes an error message.
"""

import contextlib
import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from jaxdp.errors import UserError

TRIAL_CPU_SECS = 20
"""Processor time of a trial. Files in use take less than a second, the import of the library included."""

TRIAL_BYTES = 2**32
"""Address space of a trial, mainly for the tokenizer itself."""

ENCODING_BYTES = 2**29
"""Address space that the texts of a trial may take in addition to the loaded tokenizer. A chain of replacements
fills this in a few seconds, all of TRIAL_BYTES in twenty."""

RUN_LENGTH = 3000
"""Number of equal characters in a run: quadratic time is 0.2 s, cubic time half a minute."""

_BASE_CHARACTERS = "aA0 \n\t_-.,'/é中\u0301"
_MAX_LITERALS = 12

_COSTLY = {"Replace", "Precompiled", "Prepend"}
"""Types of components that can make a text longer."""

_TRIAL = """
import json, os, resource, sys
request = json.load(sys.stdin)
for kind, soft, hard in request["limits"]:
    maximum = resource.getrlimit(kind)[1]  # set by the system, cannot be raised
    if maximum != resource.RLIM_INFINITY:
        soft, hard = min(soft, maximum), min(hard, maximum)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (OSError, ValueError):  # macOS has no limit on address space
        if kind != resource.RLIMIT_AS:
            raise
import tokenizers
try:
    tokenizer = tokenizers.Tokenizer.from_str(request["text"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as sizes:
            most = int(sizes.read().split()[0]) * resource.getpagesize() + request["encoding_bytes"]
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    print("loaded", flush=True)
    for sample in request["samples"]:
        ids = tokenizer.encode(sample, add_special_tokens=False).ids
        tokenizer.decode(ids[:100])
except BaseException as error:
    print(error)
    sys.exit(3)
"""


def check_by_trial(text: str, content: Any, origin: str) -> None:
    """Runs a tokenizer.json in a child process if it has components that may take exponential time or memory.

    Args:
        text: Content of the file.
        content: Parsed content of the file.
        origin: Path of the file, for messages.

    Raises:
        UserError: The trial failed, or took more than TRIAL_CPU_SECS or TRIAL_BYTES.
    """
    parts = list(_components(content))
    patterns = sorted({part["Regex"] for part in parts if isinstance(part.get("Regex"), str)})
    if patterns or any(part.get("type") in _COSTLY for part in parts):
        reason = _trial(text, tuple(patterns))
        if reason:
            shown = f" with the patterns {', '.join(map(repr, patterns))[:200]}" if patterns else ""
            raise UserError(
                f"The tokenizer {origin}{shown} {reason}: expected patterns and replacements that take linear time; use another tokenizer, or correct them."
            )


@functools.lru_cache(8)
def _trial(text: str, patterns: tuple[str, ...]) -> str | None:
    """Returns the reason why the tokenizer cannot be used; None if it can."""
    literals = dict.fromkeys(re.findall(r"(?<!\\)[^\W_]", "".join(patterns)))
    characters = dict.fromkeys((*_BASE_CHARACTERS, *list(literals)[:_MAX_LITERALS]))
    samples = [character * RUN_LENGTH + "\x01" for character in characters] + ["ab" * (RUN_LENGTH // 2) + "\x01"]
    limits = [
        (resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_CPU, TRIAL_CPU_SECS, TRIAL_CPU_SECS + 1), (resource.RLIMIT_AS, TRIAL_BYTES, TRIAL_BYTES),
    ]  # fmt: skip
    request = {"text": text, "samples": samples, "limits": limits, "encoding_bytes": ENCODING_BYTES}
    finished = subprocess.run(
        [sys.executable, "-c", _TRIAL], input=json.dumps(request).encode(), capture_output=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}, check=False,
    )  # fmt: skip
    printed = finished.stdout.decode(errors="replace").strip()
    is_loaded = printed.startswith("loaded")
    if finished.returncode == 3:
        return f"fails on a run of {RUN_LENGTH:,} equal characters ({printed.removeprefix('loaded').strip()[:200]})"
    if finished.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {TRIAL_CPU_SECS} s of processor time for runs of {RUN_LENGTH:,} equal characters"
    if finished.returncode == 1:  # of Python, before the trial began
        return f"could not be tried in a process of its own ({finished.stderr.decode(errors='replace').strip().rpartition(chr(10))[2][:200]})"
    if finished.returncode and not is_loaded:
        return f"needs more than {TRIAL_BYTES >> 30} GiB of memory to be loaded"
    if finished.returncode:
        return f"needs more than {ENCODING_BYTES >> 20} MiB of memory besides its own for runs of {RUN_LENGTH:,} equal characters"
    return None


def _components(content: Any) -> Iterator[dict[str, Any]]:
    """Yields every object in the parts of a tokenizer.json that change texts."""
    pending = (
        [content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")] if isinstance(content, dict) else []
    )
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


@contextlib.contextmanager
def panics_as_errors(what: str) -> Iterator[None]:
    """Turns a panic of the library, which is not an `Exception`, into an error of the user's tokenizer.

    Args:
        what: Operation on the tokenizer, for the message.

    Raises:
        UserError: The library panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise UserError(
            f"The tokenizers library failed to {what} ({error}): use another tokenizer, or correct its tokenizer.json."
        ) from error
