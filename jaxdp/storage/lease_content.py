"""Content of a lease in object storage: its holder, session and time."""

import math
import time
from collections.abc import Mapping
from typing import Any

from jaxdp.json_files import parse_json

KEY = "run.lease"
"""Object of the lease, in the work directory."""


def parsed(content: bytes) -> dict[str, Any]:
    """Returns the content of a lease; one of another form is that of an unknown holder, whose time begins now."""
    try:
        found = parse_json(content)
        return {
            "holder": str(found["holder"]),
            "session": str(found["session"]),
            "released": bool(found["released"]),
            "expires": float(found["expires"]),
            "host": str(found["host"]),
            "process_id": int(found["process_id"]),
            "start_time": float(found["start_time"]),
        }
    except (ValueError, KeyError, TypeError):
        return {
            "holder": "", "session": "", "released": False, "expires": math.inf, "host": "", "process_id": 0,
            "start_time": 0.0,
        }  # fmt: skip


def described(found: Mapping[str, Any]) -> str:
    """Names the holder of a lease."""
    host = found["host"]
    if not host or not host.isprintable():
        return "another process"
    return f"process {found['process_id']} on {host}, started {local_time(found['start_time'])}"


def local_time(secs: float) -> str:
    """Returns a time in Unix seconds as text in the time zone of this machine."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(secs))
    except (OverflowError, ValueError, OSError):
        return "an unknown time"
