"""Coordinator addresses: what is accepted, and which interface process 0 listens on."""

import errno
import socket

import pytest

from jaxdp.errors import UserError
from jaxdp.parallel import addresses
from jaxdp.parallel.addresses import (
    bind_address,
    checked_address,
    is_loopback,
    listen,
    split_address,
)
from jaxdp.parallel.processes import MAX_PROCESSES, Processes


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.1:8476", ("10.0.0.1", 8476)),
        ("node-1.example.org:1", ("node-1.example.org", 1)),
        ("jaxdp_0.jaxdp:65535", ("jaxdp_0.jaxdp", 65535)),
        ("[::1]:8476", ("::1", 8476)),
        ("[fe80::1%eth0]:8476", ("fe80::1%eth0", 8476)),
    ],
)
def test_addresses_that_are_accepted(address, parts):
    assert split_address(checked_address(address, "--coordinator")) == parts


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("host:0", "the port must be from 1 to 65535"),
        ("host:65536", "the port must be from 1 to 65535"),
        ("host:99999999", "the port must be from 1 to 65535"),
        ("host", r"must be HOST:PORT, such as 10\.0\.0\.1:8476"),
        ("host:", "must be HOST:PORT"),
        (":8476", "must be HOST:PORT"),
        ("host:-1", "must be HOST:PORT"),
        ("host:\u0661", "must be HOST:PORT"),
        ("host:" + "9" * 5000, "must be HOST:PORT"),
        ("::1:8476", r"an IPv6 address in brackets, such as \[::1\]:8476"),
        ("http://host:80", "must be HOST:PORT"),
        ("user@host:80", "must be HOST:PORT"),
        ("two words:80", "must be HOST:PORT"),
        ("\x1b[31mhost:80", r"--coordinator='\\x1b\[31mhost:80' must be HOST:PORT"),
        ("[::x]:80", "must be HOST:PORT"),
        ("[1:2]:80", "is not the name or address of a machine"),
        ("a" * 70 + ":80", "is not the name or address of a machine"),
        ("a..b:80", "is not the name or address of a machine"),
        ("0.0.0.0:80", "names no machine"),
        ("[::]:80", "names no machine"),
    ],
)
def test_addresses_that_are_refused(address, problem):
    with pytest.raises(UserError, match=problem) as refusal:
        checked_address(address, "--coordinator")
    assert refusal.value.exit_code == 2 and len(str(refusal.value)) < 300
    with pytest.raises(UserError, match=problem):
        Processes(2, 0, address)


@pytest.mark.parametrize("numbers", [(0, 0), (-1, 0), (2, 2), (2, -1), (10**12, 0)])
def test_numbers_of_processes_that_are_refused(numbers):
    with pytest.raises(UserError, match=rf"from 1 to {MAX_PROCESSES}, found|the index of a process must be from 0 to"):
        Processes(*numbers, "host:1")


@pytest.mark.parametrize(
    ("coordinator", "loopback"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("127.8.0.9:1", True), ("LOCALHOST:1", True),
     ("10.0.0.1:1", False), ("host:1", False), ("[fe80::1]:1", False), ("localhost.example.org:1", False)],
)  # fmt: skip
def test_loopback(coordinator, loopback):
    assert is_loopback(coordinator) == loopback


def resolving(monkeypatch, *found):
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", (address, port)) for address in found]
    )


def here(monkeypatch, *local):
    monkeypatch.setattr(addresses, "_is_local", lambda address: address in local)


EVERYWHERE = "[::]:9" if socket.has_dualstack_ipv6() else "0.0.0.0:9"


@pytest.mark.parametrize(
    ("coordinator", "found", "expected"),
    [
        ("127.0.0.1:9", ["127.0.0.1"], "127.0.0.1:9"),
        ("localhost:9", ["::1", "127.0.0.1"], "127.0.0.1:9"),  # this machine has no ::1
        ("node1:9", ["10.0.0.5"], "10.0.0.5:9"),
        ("node1:9", ["192.168.0.5", "10.0.0.5"], "10.0.0.5:9"),
        ("node1:9", ["fd00::5", "10.0.0.5"], "[fd00::5]:9"),
        ("node1:9", ["127.0.1.1"], EVERYWHERE),  # Debian's own name; elsewhere it is another address
        ("node1:9", ["127.0.0.1", "10.0.0.5"], "10.0.0.5:9"),
        ("node1:9", ["192.168.0.5"], EVERYWHERE),  # a service in front of a container
        ("[fe80::1%eth0]:9", ["fe80::1%eth0"], EVERYWHERE),
        ("node1:9", [], EVERYWHERE),
    ],
)
def test_the_interface_that_process_0_listens_on(coordinator, found, expected, monkeypatch):
    resolving(monkeypatch, *found)
    here(monkeypatch, "127.0.0.1", "127.0.1.1", "10.0.0.5", "fd00::5", "fe80::1%eth0")
    assert bind_address(coordinator, {}) == expected


@pytest.mark.parametrize("given", ["10.9.9.9:5", "0.0.0.0:9", "[::]:9"])
def test_the_environment_beats_the_interface(given):
    assert bind_address("127.0.0.1:9", {"JAX_COORDINATOR_BIND_ADDRESS": given}) == given


@pytest.mark.parametrize("given", ["10.9.9.9", "0.0.0.0:0", "[::]:70000", "x:y"])
def test_an_interface_of_the_environment_that_is_none(given):
    with pytest.raises(UserError, match="JAX_COORDINATOR_BIND_ADDRESS="):
        bind_address("127.0.0.1:9", {"JAX_COORDINATOR_BIND_ADDRESS": given})


def test_a_kernel_without_ipv6_has_no_such_interface(monkeypatch):
    class Ipv4Only(socket.socket):
        def __init__(self, family, *arguments):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments)

    resolving(monkeypatch, "::1", "127.0.0.1")  # /etc/hosts names both all the same
    monkeypatch.setattr(socket, "socket", Ipv4Only)
    assert bind_address("localhost:9", {}) == "127.0.0.1:9"


def test_a_name_that_does_not_resolve_is_no_fault(monkeypatch):
    def fails(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert bind_address("no.such.host.invalid:9", {}) == EVERYWHERE


def test_loopback_is_not_reachable_from_other_interfaces():
    with listen("127.0.0.1:" + str(free_port())) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.EACCES, "ports below 1024 need a privilege"),
        (errno.EADDRNOTAVAIL, "set JAX_COORDINATOR_BIND_ADDRESS to another one"),
        (errno.EMFILE, r"raise the limit of open files \(ulimit -n\)"),
    ],
)
def test_a_port_that_cannot_be_opened_is_reported_at_once(number, problem, monkeypatch):
    def fails(*_, **__):
        raise OSError(number, "reason")

    monkeypatch.setattr(socket, "create_server", fails)
    with pytest.raises(UserError, match=rf"cannot listen at port 9 of .* \(reason\): .*{problem}"):
        listen("127.0.0.1:9")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
