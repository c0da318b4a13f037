"""Memory that is freed and asked for again: seen by the page faults of a process of its own."""

import platform
import resource
import subprocess
import sys

import pytest

from jaxdp.errors import UserError
from jaxdp.hardware.host_memory import MIN_ADDRESS_SPACE, check_address_space

PROGRAM = """
import resource, sys
import numpy as np
from jaxdp.hardware.host_memory import keep_freed_memory, release_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

np.ones(1 << 23)  # 64 MiB, touched and freed
before = faults()
for _ in range(5):
    if "release" in sys.argv:
        release_freed_memory()
    np.ones(1 << 23)
print(faults() - before)
"""


def faults(*arguments):
    finished = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return int(finished.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
def test_a_buffer_that_is_freed_is_used_again():
    pages = 5 * (8 << 23) // 4096
    kept = faults("keep")
    assert kept < 0.01 * pages
    assert faults("keep", "release") > kept + pages // 1024  # the kernel may give pages of 2 MiB


def test_too_little_address_space_is_told_before_jax_is_imported():
    """Below the limit JAX would abort the process at import or thread start."""
    limited = 'ulimit -v 500000 -c 0; exec "$0" -m jaxdp generate --workdir=nowhere --prompt=x'
    finished = subprocess.run(["bash", "-c", limited, sys.executable], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "jaxdp: the address space is limited to 488 MiB (ulimit -v), but JAX needs 1024 MiB or more; raise the limit with "
        "`ulimit -v unlimited`.\n"
    )


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, MIN_ADDRESS_SPACE])
def test_enough_address_space_is_enough(limit, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, resource.RLIM_INFINITY))
    check_address_space()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (MIN_ADDRESS_SPACE - 1, resource.RLIM_INFINITY))
    with pytest.raises(UserError, match="limited to 1023 MiB"):
        check_address_space()
