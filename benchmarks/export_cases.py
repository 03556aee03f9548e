"""The networks that ``benchmarks.export_table`` measures, and their images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from benchmarks.public_networks import SMALL
from benchmarks.records import ROOT
from training.data import ImageSet, load_images

TRAINED = ROOT / "results"
RESNET8 = "cifar10-resnet8-cpu"
IMAGENETTE_PX = 224


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of the table: its data, and how many images are affordable on a slow core.

    Attributes:
        run: folder of results/ with its checkpoint; None where weights are drawn.
        targets: what is measured of it alone; None: everything.
    """

    network: str
    data: str
    flips: int
    parity: int
    calibration: int
    batch: int
    run: str | None = None
    targets: Collection[str] | None = None

    @property
    def input_px(self) -> int:
        """Height and width of the images."""
        return 32 if self.data == "cifar10" else IMAGENETTE_PX

    def of_at_most(self, images: int) -> Case:
        """The same with so few images everywhere, for a trial."""
        names = ("flips", "parity", "calibration", "batch")
        return replace(self, **{name: min(getattr(self, name), images) for name in names})

    @property
    def weights(self) -> str:
        """Where the weights come from, in the words of the table."""
        if self.run is not None:
            return f"trained: {self.run}"
        return (
            f"drawn; scales, BatchNorm and linear layer from {self.calibration:,} training images"
        )


def _cifar(
    network: str,
    run: str | None = None,
    *,
    parity: int = 5000,
    calibration: int = 2000,
    targets: Collection[str] | None = None,
) -> Case:
    return Case(
        network=network, data="cifar10", flips=5000, parity=parity, calibration=calibration,
        batch=100, run=run, targets=targets,
    )  # fmt: skip


def _imagenette(network: str, *, parity: int = 50) -> Case:
    return Case(
        network=network, data="imagenette", flips=500, parity=parity, calibration=128, batch=16
    )


CASES: tuple[Case, ...] = (
    _cifar("resnet8", f"{RESNET8}/plain"),
    _cifar(
        "resnet8",
        f"{RESNET8}/qadtr",
        targets=("onnxruntime", "litert", "qcdq", "tensorrt", "qonnx"),
    ),
    # Drawn, these two say nothing in a .tflite file that the trained ones do not.
    _cifar("resnet8", targets=("onnxruntime",)),
    _cifar("mobilenetv2", parity=500, targets=("litert",)),
    _cifar("preresnet20_cifar10", parity=500, calibration=SMALL.calibration, targets=("litert",)),
    _cifar("resnet20", "certified-cifar10-resnet20/masked", parity=500, targets=("litert",)),
    _cifar("resnet20", targets=("onnxruntime", "qcdq", "tensorrt", "qonnx", "tensorrt-rtx")),
    _cifar("vgg11"),
    _cifar("resnet56"),
    _imagenette("mobilenetv2"),
    _imagenette("resnet18"),
    _imagenette("resnet34"),
    _imagenette("resnet50", parity=20),
)
"""Smallest first."""


class Data:
    """The measured (test) and the calibrating (hold-out of training) images of one data set."""

    def __init__(self, name: str, folder: Path) -> None:
        kind, size = ("cifar10", None) if name == "cifar10" else ("folder", IMAGENETTE_PX)
        self._load = partial(load_images, kind, folder, size=size)
        self.test: ImageSet = self._load("test")
        self.facts = {"name": name, "split": "test", "digest": self.test.digest}

    @cached_property
    def calibrate(self) -> ImageSet:
        """The images for calibration, loaded at the first use."""
        return self._load("holdout")
