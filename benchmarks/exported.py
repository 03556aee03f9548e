"""What the benchmarks of a measurement run: an exported file, and patches that it is tried with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.networks import warmed_network
from deploy.core.patch_set import PatchSet
from export.lowering import lower
from export.qonnx_from_network import write_qonnx


def warmed_model(network: str, bits: int, folder: Path) -> Path:
    """The all-integer file of a drawn network of 32×32 images and 10 classes, in ``folder``."""
    qonnx = write_qonnx(warmed_network(network, (bits,)), bits, folder / "qonnx.onnx")
    return lower(qonnx, folder / "model.onnx").path


def noise_patch_sets(images: int, patches: int, draw: np.random.Generator) -> list[PatchSet]:
    """Patch sets of 6×6 random pixels for the first ``images`` images of 32×32, universal and per
    image in turn, each at drawn places."""
    return [
        PatchSet(
            name=f"noise {number}",
            kind="per-image" if number % 2 else "universal",
            patch=draw.integers(0, 256, (images if number % 2 else 1, 3, 6, 6), dtype=np.uint8),
            mask=np.ones((6, 6), np.bool_),
            positions=draw.integers(0, 27, (images, 2)).astype(np.int32),
            image_indices=np.arange(images, dtype=np.int64),
        )
        for number in range(patches)
    ]
