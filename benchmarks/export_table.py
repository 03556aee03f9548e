"""What the export gives: network × bit-width → nodes, file size, parity and flips, as records.

    python -m benchmarks.export_table --cifar10 DIR --imagenette DIR [--networks …] [--bits …]

One record in results/export for each network and bit-width, written as soon as it is there; what
has a record already (of the same target, weights and number of images) is not made again, so that
a killed run goes on where it was. `python -m benchmarks.results_page` makes the table of them.

ResNet-8 is trained (results/cifar10-resnet8-cpu). The other networks have drawn weights calibrated
on real training images (benchmarks/calibrated.py), and their records say so. Flips are counted on
test images: those of the engine against the fake-quantized network. Parity is exact and costs a
numpy reference, so it may run on fewer images than the flips; both numbers are in the record.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibrated import calibrated_network
from benchmarks.export_rows import KIND
from deploy.core.errors import InputError
from deploy.core.records import provenance, read_records, write_record
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.certificate import certify
from export.lowering import lower
from export.parity import check_parity
from export.qonnx_from_network import write_qonnx
from training.data import ImageSet, load_images
from training.data.subset import chosen_indices
from training.prediction import predict
from training.quantize import Network
from training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "export"
TRAINED = ROOT / "results" / "cifar10-resnet8-cpu"
BIT_WIDTHS = (8, 5, 4, 3, 2)
IMAGENETTE_PX = 224
TARGET = "onnxruntime"
"""The other targets have a table of their own: benchmarks.target_table."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of the table: its data, and how many images are affordable on a slow core."""

    network: str
    data: str
    flips: int
    parity: int
    calibration: int
    batch: int
    run: str | None = None

    @property
    def weights(self) -> str:
        """Where the weights come from, in the words of the table."""
        if self.run is not None:
            return f"trained: {TRAINED.name}/{self.run}"
        return (
            f"drawn; scales, BatchNorm and linear layer from {self.calibration:,} training images"
        )


def _cifar(network: str, run: str | None = None) -> Case:
    return Case(
        network=network, data="cifar10", flips=5000, parity=5000, calibration=2000, batch=100,
        run=run,
    )  # fmt: skip


def _imagenette(network: str, *, flips: int = 500, parity: int = 50) -> Case:
    return Case(
        network=network, data="imagenette", flips=flips, parity=parity, calibration=128, batch=16
    )


CASES: tuple[Case, ...] = (
    _cifar("resnet8", "plain"),
    _cifar("resnet8", "qadtr"),
    _cifar("resnet8"),
    _cifar("resnet20"),
    _cifar("vgg11"),
    _cifar("resnet56"),
    _imagenette("mobilenetv2"),
    _imagenette("resnet18"),
    _imagenette("resnet34"),
    _imagenette("resnet50", parity=20),
)
"""Smallest first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing; 1 if a file is not integer or departs from the reference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_table", description=__doc__)
    add_arguments(parser, sorted({case.network for case in CASES}))
    arguments = parser.parse_args(argv)
    folders = {"cifar10": arguments.cifar10, "imagenette": arguments.imagenette}
    arguments.records.mkdir(parents=True, exist_ok=True)
    facts = provenance(repository=ROOT, seed=0)
    good = True
    for case in CASES:
        if case.network in arguments.networks and folders[case.data] is not None:
            good &= _run_case(case, arguments, folders[case.data], facts)
    return 0 if good else 1


def add_arguments(parser: argparse.ArgumentParser, networks: Sequence[str]) -> None:
    """The images, what is measured on them, and where the records go."""
    parser.add_argument("--cifar10", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--imagenette", type=Path, help="folder of train/ and val/")
    parser.add_argument("--networks", nargs="+", choices=networks, default=networks)
    parser.add_argument("--bits", type=int, nargs="+", choices=BIT_WIDTHS, default=BIT_WIDTHS)
    parser.add_argument("--images", type=int, help="at most so many, for a trial")
    parser.add_argument("--records", type=Path, default=RECORDS, help="default: results/export")


def _run_case(
    case: Case, arguments: argparse.Namespace, folder: Path, facts: Mapping[str, Any]
) -> bool:
    flips, parity = (min(n, arguments.images or n) for n in (case.flips, case.parity))
    done = {_key(record["payload"]) for record in read_records(arguments.records, KIND)}
    missing = [
        bits
        for bits in bit_widths_of(case, arguments.bits)
        if (case.network, bits, TARGET, case.weights, flips, parity) not in done
    ]
    if not missing:
        return True
    data = Data(case.data, folder)
    good = True
    for bits in missing:
        print(f"{case.network} at {bits} bits ({case.weights}) …", flush=True)
        start = time.perf_counter()
        network = network_of(case, bits, data)
        payload = _measure(case, network, bits, TARGET, data.test, flips, parity)
        payload["seconds"] = round(time.perf_counter() - start, 1)
        write_record(arguments.records, KIND, payload, {**facts, "data": data.facts})
        good &= not payload["failures"] and not payload["codes_different"]
        print(
            f"  {payload['nodes_integer']} integer and {payload['nodes_float']} float nodes, "
            f"{payload['bytes']:,} bytes, {payload['codes_different']} codes and "
            f"{payload['logits_different']} logits differ, {payload['flips']} flips on {flips:,} "
            f"images, {payload['seconds']} s",
            flush=True,
        )
    return good


def _key(payload: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("network", "bits", "target", "weights", "flip_images", "parity_images")
    return tuple(payload[name] for name in names)


def bit_widths_of(case: Case, wanted: Sequence[int]) -> list[int]:
    """Those of the wanted ones that the case has."""
    if case.run is None:
        return list(wanted)
    trained = RunFolder.open(TRAINED / case.run).bit_widths
    return [bits for bits in wanted if bits in trained]


class Data:
    """The measured (test) and the calibrating (hold-out of training) images of one data set."""

    def __init__(self, name: str, folder: Path) -> None:
        kind, size = ("cifar10", None) if name == "cifar10" else ("folder", IMAGENETTE_PX)
        self.test = load_images(kind, folder, "test", size=size)
        self._calibrate: ImageSet | None = None
        self._load = lambda: load_images(kind, folder, "holdout", size=size)
        self.facts = {"name": name, "split": "test", "digest": self.test.digest}

    @property
    def calibrate(self) -> ImageSet:
        """The images for calibration, loaded when they are asked for first."""
        if self._calibrate is None:
            self._calibrate = self._load()
        return self._calibrate


def network_of(case: Case, bits: int, data: Data) -> Network:
    """The trained network of a case, or one calibrated at this bit-width."""
    if case.run is not None:
        return RunFolder.open(TRAINED / case.run).load_network()
    return calibrated_network(
        case.network, bits, data.calibrate, count=case.calibration, batch=case.batch
    )


def _measure(
    case: Case,
    network: Network,
    bits: int,
    target: str,
    test: ImageSet,
    flips: int,
    parity: int,
) -> dict[str, Any]:
    chosen = chosen_indices(len(test), min(flips, len(test)))
    images, labels = test.images[chosen], test.labels[chosen]
    if len(images) < flips:
        raise InputError(f"{test.name} has {len(images)} test images, {flips} are wanted")
    with tempfile.TemporaryDirectory() as folder:
        qonnx = write_qonnx(network, bits, Path(folder) / "qonnx.onnx")
        made = lower(qonnx, Path(folder) / f"{case.network}-{bits}.onnx", target=target)
        certificate = certify(made.path, images[:2])
        # The subset of a subset: spread over the classes like the whole.
        few = images[chosen_indices(flips, parity)]
        equal = check_parity(made.path, few, batch_size=min(case.batch, 16))
        theirs = predict(network, images, bits, batch_size=case.batch)
        with OnnxRuntimeEngine(made.path) as engine:
            ours = engine.predict(images, batch_size=case.batch)
    return {
        "network": case.network,
        "input_px": int(images.shape[2]),
        "bits": bits,
        "target": target,
        "weights": case.weights,
        "trained": case.run is not None,
        "sha256": made.sha256,
        "bytes": made.size_bytes,
        "nodes_integer": sum(layer.integer for layer in certificate.layers),
        "nodes_float": sum(not layer.integer for layer in certificate.layers),
        "counts": certificate.counts(),
        "failures": [f"{one.layer}: {one.reason}" for one in certificate.failures],
        "parity_images": parity,
        "codes": sum(layer.values for layer in equal.layers),
        "codes_different": sum(layer.different for layer in equal.layers),
        "logits": equal.images * equal.classes,
        "logits_different": equal.logits_different,
        "first_departure": equal.first_departure,
        "flip_images": flips,
        "flips": int(np.count_nonzero(ours != theirs)),
        "predicted_classes": len(np.unique(ours)),
        "accuracy": float((ours == labels).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
