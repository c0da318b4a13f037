"""Coordinator address: parsing and validation, and the interface that process 0 listens on."""

import errno
import ipaddress
import os
import re
import socket
import time
from collections.abc import Mapping

from jaxdp.errors import UserError
from jaxdp.quoting import quoted, shortened

BIND_SECS = 10.0
"""Time in which a port in use is retried: a killed run needs a moment to release it."""

_RETRY_SECS = 0.2
_ALL_INTERFACES = ("0.0.0.0", "::")


def split_address(address: str) -> tuple[str, int]:
    """Splits HOST:PORT, as `checked_address` accepts it, into the host without brackets and the port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def checked_address(address: str, name: str) -> str:
    """Returns the address if it is HOST:PORT.

    Args:
        address: Text of the address.
        name: Name of the option or variable, e.g. "--coordinator", for the message.

    Raises:
        UserError: The port or the host is invalid.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.-]+):([0-9]{1,9})", address, re.ASCII)
    if not match:
        hint = (
            ", an IPv6 address in brackets, such as [::1]:8476" if address.count(":") > 1 else ", such as 10.0.0.1:8476"
        )
        raise UserError(f"{name}={_shown(address)} must be HOST:PORT{hint}.")
    host, port = split_address(address)
    if not 1 <= int(port) <= 65535:
        raise UserError(f"{name}={address}: the port must be from 1 to 65535, the same for all processes.")
    try:
        host.encode("idna")
        number = ipaddress.ip_address(host) if match[1].startswith("[") else None
    except ValueError as error:  # UnicodeError is one
        raise UserError(
            f"{name}={_shown(address)}: {host!r} is not the name or address of a machine ({error})."
        ) from error
    if str(number or host) in _ALL_INTERFACES:
        raise UserError(f"{name}={address} names no machine; give the name or address of the machine of process 0.")
    return address


def is_loopback(coordinator: str) -> bool:
    """Returns True if HOST:PORT is a loopback address, which every machine has for itself."""
    host = coordinator.rpartition(":")[0].strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def bind_address(coordinator: str, environment: Mapping[str, str] = os.environ) -> str:
    """Selects the address on which process 0 listens, for the control server and for JAX.

    It is the coordinator's address if this machine has it, so that other networks cannot
    reach the port; otherwise, e.g. in a container behind another address, all
    interfaces. A host name that resolves to loopback here, like a machine's own name on
    Debian, may resolve to another address elsewhere, so it selects all interfaces too.
    JAX_COORDINATOR_BIND_ADDRESS takes precedence.

    Args:
        coordinator: HOST:PORT that all processes connect to.
        environment: Environment variables.

    Returns:
        ADDRESS:PORT, an IPv6 address in brackets.

    Raises:
        UserError: JAX_COORDINATOR_BIND_ADDRESS is not ADDRESS:PORT.
    """
    variable = "JAX_COORDINATOR_BIND_ADDRESS"
    if given := environment.get(variable):
        if split := re.fullmatch(r"(?:0\.0\.0\.0|\[::\]):([0-9]+)", given):
            checked_address(f"localhost:{split[1]}", variable)
            return given
        return checked_address(given, variable)
    host, port = split_address(coordinator)
    for found in _resolved(host, port):
        number = ipaddress.ip_address(found)
        if (is_loopback(coordinator) or not number.is_loopback) and not number.is_link_local and _is_local(found):
            return f"[{found}]:{port}" if number.version == 6 else f"{found}:{port}"
    return f"[::]:{port}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{port}"


def listen(address: str) -> socket.socket:
    """Opens a listening socket.

    Args:
        address: From `bind_address`.

    Raises:
        UserError: The port stays in use for `BIND_SECS`, or cannot be opened.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = time.monotonic() + BIND_SECS
    while True:
        try:
            return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() <= end:
                time.sleep(_RETRY_SECS)
                continue
            raise UserError(
                f"process 0 cannot listen at port {port} of {socket.gethostname()} ({error.strerror}): "
                f"{_fix(error.errno, address)}."
            ) from error


def _fix(number: int | None, address: str) -> str:
    another = "give --coordinator another port, the same to all processes"
    if number == errno.EADDRINUSE:
        return f"another run may be using it; {another}"
    if number in (errno.EACCES, errno.EPERM):
        return f"ports below 1024 need a privilege; {another}"
    if number in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files (ulimit -n)"
    return f"it listens on {address}, which this machine must have; set JAX_COORDINATOR_BIND_ADDRESS to another one"


def _resolved(host: str, port: int) -> list[str]:
    """Returns the addresses of a host in the order of connection attempts; none for an unknown name."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def _is_local(address: str) -> bool:
    """Returns True if an interface of this machine has the address."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:  # not an address of this machine, or no IPv6 support
        return False
    return True


def _shown(address: str) -> str:
    return shortened(address) if address.isprintable() else quoted(address)
