"""One tree of ``benchmarks.beside``: trains and exports ResNet-20 with the code it is started in.

    PYTHONPATH=TREE python -P benchmarks/beside_side.py FOLDER NETWORK BATCH BITS…

It writes the all-integer files of a network with drawn weights into FOLDER, then takes a training
step for each line that it is sent, and answers with a line of JSON.  It uses what the trees have in
common, and nothing of this one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import training
from benchmarks.networks import warmed_network
from benchmarks.training_step import BASE, ROWS, _step, started
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from training.allocator import keep_freed_memory


def main() -> int:
    """Run one tree."""
    folder, network, batch, *bits = sys.argv[1:]
    keep_freed_memory()
    warmed = warmed_network(network, (32, *map(int, bits)))
    for b in bits:
        qonnx = write_qonnx(warmed, int(b), Path(folder) / f"qonnx-{b}.onnx")
        lower(qonnx, Path(folder) / f"{b}.onnx")
    run = started(ROWS[BASE], network, int(batch))
    _say({"tree": str(Path(training.__file__ or "").parents[1])})
    for _ in sys.stdin:
        _say({"seconds": _step(run, ROWS[BASE])})
    return 0


def _say(facts: dict[str, object]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
