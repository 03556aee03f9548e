"""Workers of a matrix that die, and what a local Ray listens on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from deploy.core.errors import QadtrError
from eval.stages.matrix import running


def killed(*_: Any) -> str:
    """What the kernel does to a job for which there is no memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_a_killed_worker_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "do_job", killed)
    with (
        ProcessPoolExecutor(2) as pool,
        pytest.raises(QadtrError, match=r"a worker was killed.*with fewer --workers"),
    ):
        list(running._in_pool(pool, [None, None, None], None, {}))  # type: ignore[list-item]


LISTENING = """
import os, socket
from pathlib import Path
from eval.stages.matrix.running import _ray

def listening():
    for family, form in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield fields[9], fields[1].rpartition(":")[0]

before = set(listening())
with _ray("local", 1) as ray:
    assert ray.get(ray.remote(num_cpus=1)(lambda: os.getpid()).remote()) != os.getpid()
    print(*sorted({place for _, place in set(listening()) - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="no /proc/net here")  # noqa: PTH110
def test_a_local_ray_listens_on_no_other_interface_than_loopback() -> None:
    pytest.importorskip("ray")
    environment = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=environment,
    )
    places = set(done.stdout.splitlines()[-1].split())
    assert places
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}
    assert places <= loopback, places
