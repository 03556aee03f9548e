"""Clean accuracy of switchable networks beside a float network of equal epochs, as a record.

    python -m benchmarks.clean_accuracy --data DIR [--float [RUN]] [--plain RUN] [--runs RUN …]
        [--split test] [--tensorrt-images N] [--json FILE]

Every run is exported here and classified at each of its bit-widths by ONNX Runtime's CPU engine:
integer files, the float file at 32 bits. Beside each accuracy stand two differences over the same
images, with Newcombe's paired interval: to the float network, and to plain QAT at the same
bit-width. They are of these networks: another seed of the same training differs too, by how much is
not in the interval.

``--float`` without a run leaves the float network out. With ``--tensorrt-images`` each row has also
the share of so many images whose class the numpy reference of TensorRT's file changes against the
fake-quantized network: what ``network.codes`` decides.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.records import ROOT, parser_of, report
from deploy.core.errors import InputError, QadtrError
from deploy.core.share import share
from deploy.core.statistics import paired_difference
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.lowering import lower, lower_float
from export.qonnx_from_network import write_qonnx
from export.reference.qdq import QdqReference
from training.data import ImageSet
from training.data.subset import chosen_indices
from training.prediction import logits
from training.quantizers import FLOAT
from training.run_folder import RunFolder

RUNS = ROOT / "results" / "cifar10-resnet8-cpu"

Right = Mapping[int, NDArray[np.bool_]]
"""For each bit-width which images are classified correctly."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = parser_of("clean_accuracy", __doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="as for qadtr train")
    add("--float", type=Path, nargs="?", default=RUNS / "source", help="run of the float network")
    add("--plain", type=Path, default=RUNS / "plain", help="run of plain QAT")
    add("--runs", type=Path, nargs="*", default=[RUNS / "qadtr"], help="runs of defenses")
    add("--split", default="test", choices=("test", "holdout"))
    add("--tensorrt-images", type=int, default=0, help="for flips of TensorRT's file; default: 0")
    arguments = parser.parse_args(argv)
    try:
        record = _measured(
            None if arguments.float is None else RunFolder.open(arguments.float),
            [RunFolder.open(path) for path in (arguments.plain, *arguments.runs)],
            arguments.data,
            arguments.split,
            arguments.tensorrt_images,
        )
    except QadtrError as error:
        print(f"clean_accuracy: {error}", file=sys.stderr)
        return error.exit_code
    report(record, arguments.json)
    return 0


def _measured(
    unquantized: RunFolder | None,
    runs: Sequence[RunFolder],
    data: Path,
    split: str,
    tensorrt_images: int,
) -> dict[str, Any]:
    images = runs[0].images(data, split)
    beside = None if unquantized is None else _right(unquantized, images)[FLOAT]
    by_run = [_right(run, images) for run in runs]
    plain = by_run[0]
    rows = []
    if unquantized is not None and beside is not None:
        rows.append(_row(unquantized, FLOAT, beside, None, None))
    few = images.images[chosen_indices(len(images), tensorrt_images)] if tensorrt_images else None
    for run, right in zip(runs, by_run, strict=True):
        for bits in run.bit_widths:
            of_plain = None if run is runs[0] else plain.get(bits)
            row = _row(run, bits, right[bits], beside, of_plain)
            if few is not None and bits != FLOAT:
                row["tensorrt_flips"] = _tensorrt_flips(run, bits, few)
            rows.append(row)
    return {
        "benchmark": "clean-accuracy",
        "network": runs[0].network_name,
        "images": {"name": images.name, "split": images.split, "n": len(images)},
        "engine": "onnxruntime-cpu",
        "rows": rows,
    }


def _right(run: RunFolder, images: ImageSet) -> Right:
    if images.classes != run.classes:
        raise InputError(f"{run.path} was trained on other classes than the images have")
    network = run.load_network()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for bits in run.bit_widths:
            model = Path(name) / f"model-{bits}.onnx"
            qonnx = write_qonnx(network, bits, Path(name) / f"qonnx-{bits}.onnx")
            (lower_float if bits == FLOAT else lower)(qonnx, model)
            with OnnxRuntimeEngine(model) as engine:
                found[bits] = np.asarray(engine.predict(images.images) == images.labels)
    return found


def _tensorrt_flips(run: RunFolder, bits: int, images: NDArray[np.uint8]) -> Mapping[str, Any]:
    """The share of images that the reference of TensorRT's file sees otherwise than training."""
    network = run.load_network()
    with tempfile.TemporaryDirectory() as name:
        qonnx = write_qonnx(network, bits, Path(name) / "qonnx.onnx")
        path = lower(qonnx, Path(name) / "tensorrt.onnx", target="tensorrt").path
        theirs = QdqReference(path).run(images)
    ours = logits(network, images, bits)
    changed = np.count_nonzero(theirs.argmax(axis=1) != ours.argmax(axis=1))
    return share(int(changed), len(images))


def _row(
    run: RunFolder,
    bits: int,
    right: NDArray[np.bool_],
    beside: NDArray[np.bool_] | None,
    plain: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    return {
        "run": run.path.name,
        "defense": run.defense,
        "settings": dict(run.sidecar["config"]["network"]),
        "bits": bits,
        "codes": run.sidecar["config"]["network"].get("codes", "uint8"),
        "epochs": run.sidecar["config"]["training"]["epochs"],
        "seed": run.seed,
        "checkpoint_sha256": run.checkpoint_sha256,
        "accuracy": share(int(right.sum()), right.size),
        "over_float": None if beside is None else _difference(right, beside),
        "over_plain": None if plain is None else _difference(right, plain),
    }


def _difference(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> dict[str, float]:
    value, interval = paired_difference(right, other)
    return {"value": value, "low": interval.low, "high": interval.high}


if __name__ == "__main__":
    raise SystemExit(main())
