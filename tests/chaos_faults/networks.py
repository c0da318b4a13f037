"""Two machines' networks with a cable between them that can be pulled: Linux namespaces, without rights of root."""

import os
import subprocess
import time
from pathlib import Path

from chaos_faults.workshop import expect

ADDRESSES = ("10.77.0.1", "10.77.0.2")
WAIT_SECS = 20.0


class Network:
    """Context manager of two network namespaces joined by a virtual cable.

    The host name in each is its address, by which gloo finds the interface.
    """

    def __enter__(self) -> "Network":
        self._holders: list[subprocess.Popen] = []
        self._hold(["unshare", "--user", "--map-root-user", "--net", "--uts"])
        self._hold([*self.within(0), "unshare", "--net", "--uts"])
        self._run(0, f"ip link add v0 type veth peer name v1 && ip link set v1 netns {self._holders[1].pid}")
        for index, address in enumerate(ADDRESSES):
            self._run(
                index,
                f"hostname {address} && ip link set lo up && ip addr add {address}/24 dev v{index} && ip link set v{index} up",
            )
        return self

    def __exit__(self, *_) -> None:
        for holder in reversed(self._holders):
            holder.kill()
            holder.wait()

    def within(self, index: int) -> tuple[str, ...]:
        """The command in which the processes of a machine start."""
        holder = str(self._holders[index].pid)
        return ("nsenter", "--target", holder, "--user", "--net", "--uts", "--preserve-credentials")

    def pull_the_cable(self) -> None:
        """From now on no packet arrives, and nobody is told."""
        self._run(0, "ip link set v0 down")

    def _hold(self, command: list[str]) -> None:
        """Starts a process that keeps a namespace, and waits until it is in it."""
        holder = subprocess.Popen([*command, "sleep", "infinity"])
        self._holders.append(holder)
        end = time.monotonic() + WAIT_SECS
        while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n":
            expect(holder.poll() is None and time.monotonic() < end, "no network namespace can be made here")
            time.sleep(0.01)

    def _run(self, index: int, line: str) -> None:
        subprocess.run([*self.within(index), "sh", "-c", line], check=True)


def can_be_made() -> bool:
    """Returns whether this system permits users to create network namespaces."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--uts", "ip", "link"]
    try:
        return subprocess.run(command, capture_output=True, env=os.environ).returncode == 0
    except FileNotFoundError:
        return False
