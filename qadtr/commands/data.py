"""`qadtr data`: fetch a public data set and check that it is the official one."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "download an official data set and check it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set and the folder to put it in."""
    parser.add_argument("name", choices=("cifar10",), help="the data set")
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder for the archive")


def run(arguments: argparse.Namespace) -> int:
    """Download, check, read once, and say how to use it."""
    from qadtr.progress import Progress
    from training.data import load_images
    from training.data.download import CIFAR10, download

    root: Path = arguments.directory
    archive = download(CIFAR10, root, progress=Progress(f"downloading {CIFAR10.filename}"))
    images = load_images("cifar10", root, "train")
    print(f"{archive}: {len(images):,} training images of {len(images.classes)} classes are read")
    print(f"use it with --data {root}")
    return 0
