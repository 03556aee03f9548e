"""Networks that somebody else wrote, unmodified, through the one door: `pytorchcv`'s, as records.

    python -m benchmarks.public_networks --cifar10 DIR --imagenette DIR [--networks …] [--images N]
    python -m benchmarks.public_networks --page [--check]

Drawn weights; BatchNorm's statistics and the last layer come from real training images, as if the
network had been trained. Each is quantized, calibrated and exported at 8 and 4 bits, and a record
says what ran in integers, how many codes differ from the reference, and how many test images have
another class than under fake quantization. What has a record is not made again. The second form
writes docs/public-networks.md.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.calibrated import fit_last_layer
from benchmarks.export_rows import table_of
from benchmarks.pages import keep_pages
from benchmarks.records import ROOT, parser_of
from deploy.core.errors import QadtrError
from deploy.core.records import provenance, published_records, records_so_far, write_record
from deploy.core.table import Table
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.certificate import certify
from export.fake_quantized import FakeQuantized
from export.lowering import lower
from export.parity import check_parity
from export.qonnx_from_network import write_qonnx
from training.data import ImageSet, load_images
from training.data.subset import chosen_indices
from training.prediction import logits
from training.quantize import Network, quantize
from training.quantize.calibration import calibrate

KIND = "zoo"
"""Of the records; the model zoo of `qadtr zoo` is another thing."""
RECORDS = ROOT / "results" / "public-networks"
PAGE = Path("docs") / "public-networks.md"
BITS = (8, 4)
LEAST_AGREEMENT = 0.995
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CIFAR: Mapping[str, str] = {
    "resnet20_cifar10": "resnet_cifar",
    "preresnet20_cifar10": "preresnet_cifar",
    "resnext29_32x4d_cifar10": "resnext_cifar",
    "seresnet20_cifar10": "seresnet_cifar",
    "densenet40_k12_cifar10": "densenet_cifar",
    "wrn16_10_cifar10": "wrn_cifar",
    "pyramidnet110_a48_cifar10": "pyramidnet_cifar",
    "nin_cifar10": "nin_cifar",
    "rir_cifar10": "rir_cifar",
    "ror3_56_cifar10": "ror_cifar",
}
"""At 32 px: function and module of pytorchcv."""

IMAGENET: Mapping[str, str] = {
    "resnet18": "resnet",
    "mobilenet_w1": "mobilenet",
    "mobilenetv2_w1": "mobilenetv2",
    "mobilenetv3_large_w1": "mobilenetv3",
    "efficientnet_b0": "efficientnet",
    "shufflenetv2_w1": "shufflenetv2",
    "squeezenet_v1_1": "squeezenet",
    "regnetx002": "regnet",
    "regnety002": "regnet",
    "mnasnet_a1": "mnasnet",
    "fbnet_cb": "fbnet",
    "proxylessnas_gpu": "proxylessnas",
    "darknet53": "darknet53",
    "bn_vgg11": "vgg",
    "inceptionv3": "inceptionv3",
    "igcv3_w1": "igcv3",
    "menet228_12x1_g3": "menet",
    "espnetv2_w2": "espnetv2",
}
"""At 224 px."""

SIZES = {"inceptionv3": 299}
"""Of networks that take no 224 px."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How many images a network sees; batches keep its maps in memory."""

    calibration: int
    agreement: int
    parity: int
    batch: int


SMALL = Amounts(calibration=512, agreement=200, parity=16, batch=64)
LARGE = Amounts(calibration=64, agreement=200, parity=4, batch=8)
NAMES = (*CIFAR, *IMAGENET)
Times = dict[str, float]


def input_px(name: str) -> int:
    """Height and width of its images."""
    return 32 if name in CIFAR else SIZES.get(name, 224)


def public_module(name: str, classes: int = 10) -> tuple[nn.Module, int]:
    """A network of pytorchcv with weights of seed 0 in evaluation mode, and its input in px."""
    home = importlib.import_module(f"pytorchcv.models.{CIFAR.get(name) or IMAGENET[name]}")
    size = input_px(name)
    torch.manual_seed(0)
    own = {"in_size": (size, size)} if name in SIZES else {}
    module = getattr(home, name)(num_classes=classes, **own)
    return module.eval(), size


@torch.no_grad()
def settle(module: nn.Module, images: NDArray[np.uint8], batch: int) -> None:
    """Give every BatchNorm the statistics of these images, uint8 N×3×H×W."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    for start in range(0, len(images), batch):
        module((torch.from_numpy(images[start : start + batch]).float() / 255.0 - mean) / std)
    module.eval()


def taken(
    name: str,
    calibration: ImageSet,
    amounts: Amounts,
    bits: Sequence[int],
    times: Times | None = None,
) -> Network:
    """One of them as it is measured: settled, quantized, fitted and calibrated.

    Args:
        name: one of :data:`NAMES`.
        calibration: images with labels, not those that are measured.
        amounts: how many of them.
        bits: its bit-widths.
        times: seconds of the steps are put there.

    Raises:
        QadtrError: it is refused.
    """
    module, size = public_module(name, len(calibration.classes))
    chosen = chosen_indices(len(calibration), amounts.calibration)
    # In the order of the data set classes may stand together; a batch should hold many.
    order = np.random.default_rng(0).permutation(chosen)
    images, labels = calibration.images[order], calibration.labels[order]
    settle(module, images, amounts.batch)
    start = time.perf_counter()
    example = torch.zeros(1, 3, size, size)
    network = quantize(module, example, bits=(32, *bits), mean=MEAN, std=STD)
    quantized = time.perf_counter()
    fit_last_layer(network, images, labels, amounts.batch)
    fitted = time.perf_counter()
    calibrate(network, images, batch_size=amounts.batch)
    if times is not None:
        times["quantize_s"] = round(quantized - start, 1)
        times["calibrate_s"] = round(time.perf_counter() - fitted, 1)
    return network


def measured(name: str, calibration: ImageSet, test: ImageSet, amounts: Amounts) -> dict[int, Any]:
    """The payload of each bit-width, or of 0 bits where the network is refused."""
    times: Times = {}
    facts: dict[str, Any] = {"network": name, "input_px": input_px(name)}
    try:
        network = taken(name, calibration, amounts, BITS, times)
    except QadtrError as error:
        return {0: {**facts, "bits": 0, "refused": str(error)}}
    facts |= {**times, "calibration_images": min(amounts.calibration, len(calibration))}
    shown = test.images[chosen_indices(len(test), amounts.agreement)]
    return {
        bits: {**facts, "bits": bits, **_exported(network, bits, shown, amounts)} for bits in BITS
    }


def _exported(
    network: Network, bits: int, images: NDArray[np.uint8], amounts: Amounts
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        qonnx = write_qonnx(network, bits, Path(folder) / "qonnx.onnx")
        made = lower(qonnx, Path(folder) / "integer.onnx")
        certificate = certify(made.path, images[:2])
        export_s = time.perf_counter() - start
        few = images[chosen_indices(len(images), amounts.parity)]
        equal = check_parity(
            made.path,
            few,
            fake_quantized=FakeQuantized(network, bits),
            batch_size=min(4, amounts.batch),
        )
        with OnnxRuntimeEngine(made.path) as engine:
            ours = engine.predict(images, batch_size=amounts.batch)
        size = made.size_bytes
    fake = logits(network, images, bits, amounts.batch).argmax(axis=1)
    compared = [layer for layer in equal.layers if layer.flips is not None]
    return {
        "refused": None,
        "bytes": size,
        "export_s": round(export_s, 1),
        "nodes_integer": sum(layer.integer for layer in certificate.layers),
        "nodes_float": sum(not layer.integer for layer in certificate.layers),
        "failures": [f"{one.layer}: {one.reason}" for one in certificate.failures],
        "parity_images": len(few),
        "codes": sum(layer.values for layer in equal.layers),
        "codes_different": sum(layer.different for layer in equal.layers),
        "logits_different": equal.logits_different,
        "code_flips": sum(layer.flips or 0 for layer in compared),
        "codes_compared": sum(layer.values for layer in compared),
        "agreement_images": len(images),
        "flips": int(np.count_nonzero(ours != fake)),
        "predicted_classes": len(np.unique(ours)),
    }  # fmt: skip


def sound(payload: Mapping[str, Any]) -> bool:
    """Whether a payload shows a network that was taken, whole."""
    if payload["refused"] is not None:
        return False
    agreement = 1.0 - payload["flips"] / payload["agreement_images"]
    exact = not (payload["codes_different"] or payload["logits_different"])
    return exact and not payload["nodes_float"] and agreement >= LEAST_AGREEMENT


def main(argv: Sequence[str] | None = None) -> int:
    """Make the records that are missing, or the page; 1 if a network is not taken whole."""
    parser = parser_of("public_networks", __doc__, json=False)
    add = parser.add_argument
    add("--cifar10", type=Path, help="folder that holds cifar-10-batches-py")
    add("--imagenette", type=Path, help="folder of train/ and val/")
    add("--networks", nargs="+", choices=NAMES, default=NAMES)
    add("--images", type=int, help="at most so many of everything, for a trial")
    add("--records", type=Path, default=RECORDS, help="default: results/public-networks")
    add("--page", action="store_true", help="write docs/public-networks.md from the records")
    add("--check", action="store_true", help="with --page: change nothing, 1 if it is stale")
    arguments = parser.parse_args(argv)
    if arguments.page:
        text = networks_page(published_records(arguments.records, KIND))
        return keep_pages({PAGE: text.encode()}, check=arguments.check)
    facts = provenance(repository=ROOT, seed=0)
    done = {r["payload"]["network"] for r in records_so_far(arguments.records, KIND)}
    good = True
    for name in arguments.networks:
        folder = arguments.cifar10 if name in CIFAR else arguments.imagenette
        if folder is None or name in done:
            continue
        amounts = SMALL if name in CIFAR else LARGE
        if arguments.images is not None:
            most = arguments.images
            amounts = Amounts(**{key: min(value, most) for key, value in vars(amounts).items()})
        size = None if name in CIFAR else SIZES.get(name, 224)
        kind = "cifar10" if name in CIFAR else "folder"
        train, test = (load_images(kind, folder, split, size=size) for split in ("holdout", "test"))
        for bits, payload in measured(name, train, test, amounts).items():
            data = {"name": test.name, "split": test.split, "digest": test.digest}
            write_record(arguments.records, KIND, payload, {**facts, "data": data})
            good &= sound(payload)
            print(f"{name} at {bits} bits: {payload}", flush=True)
    return 0 if good else 1


# ---------------------------------------------------------------------- the page


def networks_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each network and bit-width in the order of :data:`NAMES`."""
    rows = [record["payload"] for record in records]
    rows.sort(key=lambda p: (NAMES.index(p["network"]), -p["bits"]))
    return table_of(
        {
            "network": lambda p: f"{p['network']} ({p['input_px']} px)",
            "bits": lambda p: str(p["bits"]),
            "nodes integer / float": lambda p: f"{p['nodes_integer']} / {p['nodes_float']}",
            "codes that differ from the reference": lambda p: (
                f"{p['codes_different']:,} of {p['codes']:,}"
            ),
            "class of fake quantization": lambda p: (
                f"{1 - p['flips'] / p['agreement_images']:.1%} of {p['agreement_images']}"
            ),
            "codes of fake quantization": lambda p: (
                f"{1 - p['code_flips'] / p['codes_compared']:.4%}"
            ),
            "quantize, calibrate, export (s)": lambda p: (
                f"{p['quantize_s']}, {p['calibrate_s']}, {p['export_s']}"
            ),
            "bytes": lambda p: f"{p['bytes']:,}",
        },
        [p for p in rows if p["refused"] is None],
    )


def networks_page(records: Sequence[Mapping[str, Any]]) -> str:
    """docs/public-networks.md."""
    refused = [r["payload"] for r in records if r["payload"]["refused"] is not None]
    taken = {r["payload"]["network"] for r in records if r["payload"]["refused"] is None}
    commits = ", ".join(sorted({str(r["provenance"]["commit"])[:10] for r in records}))
    parts = [
        "# Networks of others",
        (
            "Made by `python -m benchmarks.public_networks --page` from the records in "
            f"`results/public-networks`; not written by hand. {len(taken)} of "
            f"{len(taken) + len(refused)} networks of `pytorchcv`, unmodified, are taken. Weights "
            "are drawn; BatchNorm's statistics and the last layer come from training images "
            "(CIFAR-10 at 32 px, Imagenette above), the classes are of test images. Seconds are of "
            "one thread beside other work, so upper bounds. `make test-public-networks` does "
            "the same on few images."
        ),
        networks_table(records).markdown(),
    ]
    if refused:
        parts.append("Refused:")
        parts.append("\n".join(f"- {p['network']}: {_shortened(p['refused'])}" for p in refused))
    parts.append(f"Commit {commits}.")
    return "\n\n".join(parts) + "\n"


def _shortened(refusal: str) -> str:
    """The first reason of a refusal, which has a line for each operation."""
    what, *reasons = refusal.splitlines()
    return f"{what} The first: {reasons[0].strip()}" if reasons else what


if __name__ == "__main__":
    sys.exit(main())
