"""Memory that is freed and asked for again: seen by the page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from jaxdp.parallel.host_memory import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

np.ones(1 << 23)  # 64 MiB, touched and freed
before = faults()
for _ in range(5):
    np.ones(1 << 23)
print(faults() - before)
"""


def faults(*arguments):
    finished = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return int(finished.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
def test_a_buffer_that_is_freed_is_used_again():
    pages = 5 * (8 << 23) // 4096
    assert faults("keep") < 0.01 * pages
