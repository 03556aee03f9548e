r"""A run folder with a calibrated network, at an image size that is too slow to train at.

    python -m benchmarks.calibrated_run --network resnet18 --size 224 --bits 32 8 4 --data DIR \
        --start runs/imagenette-resnet18-64px/checkpoint.safetensors --out runs/imagenette-resnet18

With ``--start`` the convolutions are those of a float network trained on smaller images, else they
stay as drawn. BatchNorm, scales and the linear layer are of the training images at ``--size``
(``benchmarks.calibrated``). Records call such a network "calibrated": it is a weak classifier,
made to show that a path works, and its clean accuracy stands beside every figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.calibrated import calibrate
from deploy.core.records import provenance
from training.checkpoint import CHECKPOINT, save_checkpoint, start_from
from training.data import load_images
from training.networks import NETWORKS, NetworkSpec, build_network
from training.prediction import predict

DEFENSE = "calibrated"
ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, write the checkpoint and print its clean accuracy on the hold-out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrated_run")
    parser.add_argument("--network", required=True, choices=sorted(NETWORKS))
    parser.add_argument("--size", type=int, required=True, metavar="PX")
    parser.add_argument("--bits", type=int, nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder data set")
    parser.add_argument("--start", type=Path, help="checkpoint of a float network")
    parser.add_argument("--images", type=int, default=512, help="training images (default: 512)")
    parser.add_argument("--batch", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN")
    arguments = parser.parse_args(argv)
    images = load_images("folder", arguments.data, "train", size=arguments.size)
    spec = NetworkSpec(
        name=arguments.network,
        classes=len(images.classes),
        input_size=arguments.size,
        bit_widths=tuple(arguments.bits),
    )
    network = build_network(spec, torch.Generator().manual_seed(arguments.seed))
    if arguments.start is not None:
        start_from(network, arguments.start)
    calibrate(network, images, count=arguments.images, batch=arguments.batch, seed=arguments.seed)
    holdout = load_images("folder", arguments.data, "holdout", size=arguments.size)
    some = holdout.images[:200]
    clean = {
        str(bits): float((predict(network, some, bits) == holdout.labels[:200]).mean())
        for bits in spec.bit_widths
    }
    start = None if arguments.start is None else str(arguments.start)
    config = {
        "name": arguments.out.name,
        "seed": arguments.seed,
        "data": {"kind": "folder", "size": arguments.size, "augment": "none"},
        "network": {"name": spec.name, "bit_widths": list(spec.bit_widths)},
        "defense": {"name": DEFENSE},
        "calibration": {"images": arguments.images, "batch": arguments.batch, "start": start},
    }
    save_checkpoint(
        arguments.out / CHECKPOINT,
        network,
        {
            "classes": list(images.classes),
            "config": config,
            "data": {"name": images.name, "digest": images.digest},
            "history": [],
            "holdout_accuracy": clean,
            "provenance": provenance(repository=ROOT, seed=arguments.seed, config=config),
        },
    )
    print(f"{arguments.out}: hold-out accuracy of 200 images {clean}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
