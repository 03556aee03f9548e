"""What the export gives: network × bit-width × target, as records for the results page.

    python -m benchmarks.export_table --cifar10 DIR --imagenette DIR
        [--targets …] [--networks …] [--bits …] [--arm64 .cache/arm64]

One record for each network, bit-width and target, written as soon as it is there; what has one
already (of the same weights and number of images) is not made again, so that a killed run goes on
where it was. `python -m benchmarks.results_page` makes the tables of them.

``onnxruntime``   nodes that really ran, codes and logits against the integer reference, flips
``litert``        XNNPACK's, LiteRT's reference and tflite-micro's kernels, each against its numpy
                  reference; flips; RAM and flash of a microcontroller; speed beside ONNX Runtime
``qcdq``          OpenVINO and ONNX Runtime against the numpy reference of the same file
``tensorrt``      ONNX Runtime against that reference (TensorRT itself needs a GPU)
``qonnx``         the executor of the ``qonnx`` package against the fake-quantized network
``tensorrt-rtx``  what the builder makes of the ``tensorrt`` file without a GPU; nothing is run

ResNet-8 and a ResNet-20 are trained (results/). The other networks have drawn weights calibrated
on real training images (benchmarks/calibrated.py; benchmarks/public_networks.py for a network of
others), and their records say so. Flips are counted on test images against the fake-quantized
network. A numpy reference costs much, so it may see fewer images than the engine; both numbers are
in the record.
``--arm64`` has the ``.tflite`` files run on an emulated arm64 machine too, made in that folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.arm64_root import Arm64Root, SetUpError, arm64_root
from benchmarks.calibrated import calibrated_network
from benchmarks.export_cases import CASES, TRAINED, Case, Data
from benchmarks.export_measures import MEASURES, Subject
from benchmarks.export_rows import BUILD_KIND, KIND, LITERT_KIND, TARGET_KIND
from benchmarks.public_networks import CIFAR, SMALL, taken
from benchmarks.records import ROOT, parser_of
from deploy.core.records import provenance, records_so_far, write_record
from export.qonnx_from_network import write_qonnx
from training.data.subset import chosen_indices
from training.run_folder import RunFolder

BIT_WIDTHS = (8, 5, 4, 3, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing; 1 if an integer file is not integer or departs from the reference."""
    parser = parser_of("export_table", __doc__, json=False)
    add = parser.add_argument
    add("--cifar10", type=Path, help="folder that holds cifar-10-batches-py")
    add("--imagenette", type=Path, help="folder of train/ and val/")
    names = sorted({case.network for case in CASES})
    add("--targets", nargs="+", choices=MEASURES, default=["onnxruntime"])
    add("--networks", nargs="+", choices=names, default=names)
    add("--bits", type=int, nargs="+", choices=BIT_WIDTHS, default=BIT_WIDTHS)
    add("--images", type=int, help="at most so many of everything, for a trial")
    add("--records", type=Path, default=ROOT / "results", help="default: results/")
    add("--arm64", type=Path, metavar="FOLDER", help="run .tflite files on an arm64 machine too")
    arguments = parser.parse_args(argv)
    try:
        arm64 = arm64_root(arguments.arm64) if arguments.arm64 else None
    except SetUpError as error:
        parser.error(str(error))
    folders = {"cifar10": arguments.cifar10, "imagenette": arguments.imagenette}
    facts = provenance(repository=ROOT, seed=0)
    good = True
    most = arguments.images or max(case.flips for case in CASES)
    for case in (case.of_at_most(most) for case in CASES):
        folder = folders[case.data]
        if case.network not in arguments.networks or folder is None:
            continue
        if missing := _missing(case, arguments):
            data = Data(case.data, folder)
            for bits, targets in missing.items():
                good &= _measured(case, bits, targets, data, arguments.records, facts, arm64)
    return 0 if good else 1


def _missing(case: Case, arguments: argparse.Namespace) -> dict[int, list[str]]:
    """By bit-width the targets that have no record of this case yet."""
    done = {
        _identity(record["kind"], record["payload"])
        for kind, name in FOLDERS.items()
        for record in records_so_far(arguments.records / name, kind)
    }
    missing: dict[int, list[str]] = {}
    for bits in arguments.bits:
        if case.run is not None and bits not in RunFolder.open(TRAINED / case.run).bit_widths:
            continue
        for target in arguments.targets:
            kind = MEASURES[target][0]
            asked = {**_facts(case, bits, kind), "target": target, "flip_images": case.flips}
            wanted = case.targets is None or target in case.targets
            if wanted and _identity(kind, asked) not in done:
                missing.setdefault(bits, []).append(target)
    return missing


def _identity(kind: str, payload: Mapping[str, Any]) -> tuple[Any, ...]:
    what = (kind, payload["network"], payload["input_px"], payload["bits"], payload["trained"])
    if kind == BUILD_KIND:  # nothing there depends on images or values of weights
        return what
    flips = payload.get("asked_images", payload["flip_images"])
    return (*what, payload["weights"], payload["target"], flips)


def _facts(case: Case, bits: int, kind: str) -> dict[str, Any]:
    facts = {
        "network": case.network,
        "input_px": case.input_px,
        "bits": bits,
        "trained": case.run is not None,
    }
    return facts if kind == BUILD_KIND else {**facts, "weights": case.weights}


def _measured(
    case: Case,
    bits: int,
    targets: Sequence[str],
    data: Data,
    records_of: Path,
    facts: Mapping[str, Any],
    arm64: Arm64Root | None,
) -> bool:
    chosen = chosen_indices(len(data.test), case.flips)
    if case.run is not None:
        network = RunFolder.open(TRAINED / case.run).load_network()
    elif case.network in CIFAR:
        amounts = replace(SMALL, calibration=case.calibration)
        network = taken(case.network, data.calibrate, amounts, (bits,))
    else:
        network = calibrated_network(
            case.network, bits, data.calibrate, count=case.calibration, batch=case.batch
        )
    good = True
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(
            case=case,
            network=network,
            bits=bits,
            qonnx=write_qonnx(network, bits, Path(name) / "qonnx.onnx"),
            images=data.test.images[chosen],
            labels=data.test.labels[chosen],
            arm64=arm64,
        )
        for target in targets:
            kind, measure = MEASURES[target]
            start = time.perf_counter()
            payload = {
                **_facts(case, bits, kind),
                **measure(subject, target),
                "seconds": round(time.perf_counter() - start, 1),
            }
            records = records_of / FOLDERS[kind]
            records.mkdir(parents=True, exist_ok=True)
            write_record(records, kind, payload, {**facts, "data": data.facts})
            wrong = ("failures", "codes_different", "arm64_different")
            good &= not any(payload.get(name) for name in wrong)
            print(
                f"{case.network} at {bits} bits, {target} ({case.weights}): {payload}", flush=True
            )
    return good


FOLDERS = {
    KIND: "export",
    LITERT_KIND: "export",
    TARGET_KIND: "export",
    BUILD_KIND: "engines",
}
"""Of results/, by the kind of record."""


if __name__ == "__main__":
    sys.exit(main())
