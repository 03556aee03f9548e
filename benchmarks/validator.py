"""What the validator costs beside the engine that it must run anyway, as ratios.

    python -m benchmarks.validator [--images 5000] [--patches 10] [--json FILE]

Patching and metrics: all the time of a full measurement (ResNet-20, 4-bit codes, one thread) over
the time inside the engine. Cold start, memory and size: ``validate.pyz`` on a small bundle against
``python -c "import onnxruntime"``, the best of several processes in turn.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import warmed_network
from benchmarks.records import parser_of, report
from deploy.bundle import write_bundle
from deploy.bundle_contents import BundleContents, BundleModel, BundlePatch, Thresholds
from deploy.core.files import write_atomic
from deploy.core.patch_set import PatchSet
from deploy.core.strict_json import read_json
from deploy.device.bundle_reading import Bundle
from deploy.device.figures import clean_figures, patch_figures
from deploy.device.measuring import checks_of, measure
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.profile_check import profiled_run
from deploy.device.suite import read_suite
from deploy.device.thresholds import effective_thresholds
from deploy.validator_archive import validator_bytes
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from export.reference import IntegerReference

BITS = 4
_IMPORT = (
    "import onnxruntime\n"
    "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)


class TimedEngine(OnnxRuntimeEngine):
    """ONNX Runtime with a clock around every call."""

    seconds: float = 0.0

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the engine."""
        start = time.perf_counter()
        logits = super().run(batch)
        self.seconds += time.perf_counter() - start
        return logits


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = parser_of("validator", __doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--patches", type=int, default=10)
    parser.add_argument("--processes", type=int, default=5)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = warmed_network("resnet20", (BITS,))
        qonnx = write_qonnx(network, BITS, folder / "qonnx.onnx")
        model = lower(qonnx, folder / "model.onnx").path
        figures = _overhead(model, folder, arguments.images, arguments.patches)
        figures |= _start(model, folder, arguments.processes)
    record = {"benchmark": "validator", "images": arguments.images, "patches": arguments.patches}
    report({**record, "figures": figures}, arguments.json)
    return 0


def _write(model: Path, out: Path, images: int, patches: int) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    with OnnxRuntimeEngine(model) as engine:
        labels = engine.predict(pixels)
    reference, golden = IntegerReference(model), pixels[:2]
    sets = [
        PatchSet(
            name=f"noise {number}",
            kind="per-image" if number % 2 else "universal",
            patch=rng.integers(0, 256, (images if number % 2 else 1, 3, 6, 6), dtype=np.uint8),
            mask=np.ones((6, 6), np.bool_),
            positions=rng.integers(0, 27, (images, 2)).astype(np.int32),
            image_indices=np.arange(images, dtype=np.int64),
        )
        for number in range(patches)
    ]
    contents = BundleContents(
        name="benchmark",
        bit_width=BITS,
        classes=[str(i) for i in range(10)],
        models={
            "onnxruntime": BundleModel(
                path=model,
                certificate={
                    "engine": "onnxruntime-cpu",
                    "machine": "this",
                    "kinds": profiled_run(model, golden).require_integers(),
                },
            )
        },
        images=pixels,
        labels=labels,
        indices=np.arange(images, dtype=np.int64),
        images_about={"name": "noise", "split": "test", "digest": "0" * 64},
        golden_inputs=golden,
        golden_logits=reference.run(golden),
        golden_codes=reference.codes(golden),
        lab_engine="none",
        lab_clean=labels,
        patches=[BundlePatch(patch_set=one, lab=labels) for one in sets],
        thresholds=Thresholds(max_asr=0.99, max_drift=1.0),
    )
    write_bundle(out, contents)
    return out


def _overhead(model: Path, folder: Path, images: int, patches: int) -> dict[str, float]:
    with Bundle(_write(model, folder / "large.qbundle", images, patches)) as bundle:
        suite = read_suite(bundle)
        thresholds = effective_thresholds(bundle.manifest.thresholds, {})
        with TimedEngine(model) as engine:
            engine.predict(suite.images[:64])
            engine.seconds = 0.0
            start = time.perf_counter()
            found = measure(engine, suite, thresholds, floor_seed=0, quick=False)
            clean_figures(found, suite)
            for number in range(patches):
                patch_figures(found, suite, number)
            checks_of(found, suite, thresholds)
            total = time.perf_counter() - start
            return {
                "measurement over engine's time": total / engine.seconds,
                "engine's images per s": images * (2 * patches + 1) / engine.seconds,
            }


def _start(model: Path, folder: Path, processes: int) -> dict[str, float]:
    bundle = _write(model, folder / "small.qbundle", 64, 1)
    archive = folder / "validate.pyz"
    write_atomic(archive, validator_bytes())
    empty = [sys.executable, "-c", _IMPORT]
    ours = [sys.executable, str(archive), str(bundle)]
    taken: dict[str, list[tuple[float, float, str]]] = {"empty": [], "ours": []}
    for _ in range(processes):
        for key, words in (("empty", empty), ("ours", ours)):
            taken[key].append(_process(words, folder))
    first = min(one[0] for one in taken["ours"])
    whole = min(one[1] for one in taken["ours"])
    alone = min(one[1] for one in taken["empty"])
    alone_memory = min(int(one[2].split()[1]) * 1024 for one in taken["empty"])
    report = read_json(folder / "report.json")
    assert isinstance(report, dict)
    memory = report["peak_memory_bytes"]
    return {
        "first line over import": first / alone,
        "whole run of 64 images over import": whole / alone,
        "peak memory over import": memory / alone_memory,
        "validate.pyz over package's size": archive.stat().st_size / _package_bytes(),
    }


def _process(words: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds to the first line, seconds to the end, and that line."""
    start = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    first = time.perf_counter() - start
    process.communicate()
    return first, time.perf_counter() - start, line


def _package_bytes() -> int:
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return sum(path.stat().st_size for path in Path(spec.origin).parent.rglob("*"))


if __name__ == "__main__":
    raise SystemExit(main())
