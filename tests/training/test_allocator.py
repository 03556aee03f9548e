"""Freed memory stays in the process: after a while large blocks fault no page in."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import torch
from training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    torch.ones(16, 1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16, 1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is on Linux")
def test_freed_blocks_are_used_again() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", SCRIPT, how]
        root = Path(__file__).parents[2]
        return int(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout)

    page = resource.getpagesize()
    assert faults("keep") * page < 64 << 20
    # What is avoided: ten blocks of 64 MB, each faulted in anew.
    assert faults("leave") > 4 * faults("keep")
