"""Memory of a training on processors."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

LARGE = """
import resource
import numpy as np
from lineament.train.memory import keep_freed_memory
keep_freed_memory()
faults = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 * 2**20, np.uint8)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_the_second_large_block_needs_no_new_memory() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    said = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout
    first, second = map(int, said.split())
    assert second < first / 10
