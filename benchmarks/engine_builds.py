"""What TensorRT-RTX makes of the networks, built without a GPU: records in results/engines.

    python -m benchmarks.engine_builds --cifar10 DIR --imagenette DIR [--networks …] [--bits …]

Each network is exported for the target ``tensorrt`` and built for the usual compute capabilities,
for batches of 1 to 64 (16 at 224 px). The record has the plan's layers by kind, and how many
tensors between them are int8 and how many float32, as the builder lists them; nothing is run: that
takes a GPU. ResNet-8 is trained; the other networks have drawn weights calibrated on real images,
which changes nothing here but the numbers in the file.
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

from benchmarks.calibrated import calibrated_network
from deploy.core.files import sha256_of
from deploy.core.records import provenance, write_record
from deploy.tensorrt.bindings import TENSORRT_RTX
from deploy.tensorrt.builder import build_engine
from deploy.tensorrt.options import BuildOptions
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from training.data import ImageSet, load_images
from training.quantize import Network
from training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "engines"
TRAINED = ROOT / "results" / "cifar10-resnet8-cpu" / "plain"
KIND = "engine-build"
BIT_WIDTHS = (8, 4, 2)

HEADER = (
    "network",
    "bits",
    "convolutions",
    "products",
    "pools",
    "tensors int8 / float32",
    "bytes, ONNX → engine",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network: its data, input size, calibration images and largest batch."""

    network: str
    data: str
    size_px: int
    images: int
    largest: int


CASES = (
    *(
        Case(network=name, data="cifar10", size_px=32, images=128, largest=64)
        for name in ("resnet8", "resnet20", "resnet56", "vgg11")
    ),
    *(
        Case(network=name, data="imagenette", size_px=224, images=16, largest=16)
        for name in ("mobilenetv2", "resnet18", "resnet34", "resnet50")
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is asked for; a plan with a float convolution or product is an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_builds")
    parser.add_argument("--cifar10", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--imagenette", type=Path, help="folder of train/ and val/")
    names = [case.network for case in CASES]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--bits", type=int, nargs="+", choices=BIT_WIDTHS, default=BIT_WIDTHS)
    parser.add_argument("--records", type=Path, default=RECORDS, help="default: results/engines")
    arguments = parser.parse_args(argv)
    folders = {"cifar10": arguments.cifar10, "imagenette": arguments.imagenette}
    facts = provenance(repository=ROOT, seed=0)
    for name, folder in folders.items():
        wanted = [
            case for case in CASES if case.data == name and case.network in arguments.networks
        ]
        if folder is None or not wanted:
            continue
        kind, size = ("cifar10", None) if name == "cifar10" else ("folder", wanted[0].size_px)
        images = load_images(kind, folder, "holdout", size=size)
        for case in wanted:
            for bits in arguments.bits:
                payload = measure(case, network_of(case, bits, images), bits)
                write_record(arguments.records, KIND, payload, facts)
                print(
                    f"{case.network} at {bits} bits: {payload['kinds']}, "
                    f"{payload['engine_bytes']:,} bytes, built in {payload['build_s']} s",
                    flush=True,
                )
    return 0


def network_of(case: Case, bits: int, images: ImageSet) -> Network:
    """The network of a case, trained where there is one."""
    if case.network == "resnet8":
        return RunFolder.open(TRAINED).load_network()
    return calibrated_network(
        case.network, bits, images, count=case.images, batch=min(case.images, 16)
    )


def measure(case: Case, network: Network, bits: int) -> dict[str, Any]:
    """Export and build one network, and return the record's payload."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qonnx = write_qonnx(network, bits, folder / "qonnx.onnx")
        model = lower(qonnx, folder / "model.onnx", target="tensorrt").path
        options = BuildOptions(batch_sizes=(1, case.largest, case.largest))
        start = time.perf_counter()
        facts = build_engine(model, folder / "model.engine", TENSORRT_RTX, options)
        seconds = time.perf_counter() - start
        onnx_bytes, onnx_sha256 = model.stat().st_size, sha256_of(model)
    given = [kind for layer in facts["layers"] for kind in layer["outputs"]]
    return {
        "network": case.network,
        "input_px": case.size_px,
        "bits": bits,
        "trained": case.network == "resnet8",
        "onnx_sha256": onnx_sha256,
        "onnx_bytes": onnx_bytes,
        "engine_bytes": facts["engine"]["size_bytes"],
        "builder": facts["builder"],
        "options": facts["options"],
        "kinds": facts["kinds"],
        "layers": len(facts["layers"]),
        "tensors": {kind: given.count(kind) for kind in sorted(set(given))},
        "build_s": round(seconds, 1),
        "note": facts["note"],
    }


def build_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each network and bit-width: the newest record of it.

    Args:
        records: of :data:`KIND`, oldest first.
    """
    newest: dict[tuple[str, int], Mapping[str, Any]] = {}
    for record in records:
        payload = record["payload"]
        newest[payload["network"], payload["bits"]] = payload
    order = {case.network: number for number, case in enumerate(CASES)}
    rows = sorted(newest.values(), key=lambda p: (order[p["network"]], -p["bits"]))
    return [
        [
            f"{p['network']} ({p['input_px']} px)",
            str(p["bits"]),
            f"{p['kinds']['convolution']} int8",
            f"{p['kinds']['matrix product']} int8",
            f"{p['kinds']['pool']} int8" if p["kinds"]["pool"] else "none",
            f"{p['tensors'].get('int8', 0)} / {p['tensors'].get('float32', 0)}",
            f"{p['onnx_bytes']:,} → {p['engine_bytes']:,}",
        ]
        for p in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
