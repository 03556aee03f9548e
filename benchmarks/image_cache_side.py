"""One side of ``benchmarks.image_cache``: for each line that it is sent, it takes a round of steps.

    python -m benchmarks.image_cache_side NETWORK SIZE BATCH STEPS DATA [CACHE]

It answers with a line of JSON: at the start, after each round, and at the end of its input.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from deploy.core.files import sha256_of_bytes
from training.allocator import keep_freed_memory
from training.checkpoint import tensor_bytes
from training.config import config_from_dict
from training.data import load_images
from training.loop import RunOptions, TrainingRun

_STATUS = Path("/proc/self/status")


def own_bytes() -> int:
    """The anonymous memory of this process: what no other one shares and no file backs."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} names no anonymous memory: this benchmark needs Linux")


def main() -> int:
    """Run one side."""
    network, size, batch, steps, data, *cache = sys.argv[1:]
    keep_freed_memory()
    config = config_from_dict(
        {
            "name": "image-cache",
            "seed": 1,
            "data": {"kind": "folder", "size": int(size)},
            "network": {"name": network, "bit_widths": [32, 8, 5, 4, 2]},
            "training": {"epochs": 10_000, "batch_size": int(batch)},
            "defense": {"name": "qat"},
        },
        "benchmarks.image_cache",
    )
    before, start = own_bytes(), time.perf_counter()
    images = load_images(
        "folder", Path(data), "train", size=int(size), cache=Path(cache[0]) if cache else None
    )
    _say(
        {
            "images": len(images),
            "image_bytes": images.images.nbytes,
            "read_s": time.perf_counter() - start,
            "bytes_for_images": own_bytes() - before,
        }
    )
    run = TrainingRun(config, images, images, Path(), RunOptions())
    run.network.train()
    peak = 0
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(steps)):
            run.one_step()
        seconds = time.perf_counter() - start
        peak = max(peak, own_bytes())
        _say({"seconds": seconds})
    _say({"peak_bytes": peak, "weights": sha256_of_bytes(tensor_bytes(run.state(), {}))})
    return 0


def _say(facts: dict[str, object]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
