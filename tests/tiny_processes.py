"""Threads that stand for the processes of a run, each with its control plane."""

import concurrent.futures
import socket
from pathlib import Path

from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.processes import Processes
from jaxdp.parallel.run_token import VARIABLE, RunToken

TOKEN = RunToken(Path("nowhere"), {VARIABLE: "a token of the tests"})


def free_address():
    """HOST:PORT on loopback at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def as_processes(num_processes, function):
    """Returns the result or exception of `function(control_plane)` in each process."""
    address = free_address()

    def run(index):
        try:
            with ControlPlane(
                Processes(num_processes, index, address), 20.0, print, lambda code: None, token=TOKEN
            ) as control_plane:
                return function(control_plane)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(num_processes) as pool:
        return list(pool.map(run, range(num_processes)))
