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
    from training.data import load_images
    from training.data.download import CIFAR10, download
    from training.progress import Progress

    root: Path = arguments.directory
    with Progress(f"{CIFAR10.filename} (bytes)", CIFAR10.size_bytes) as progress:
        archive = download(CIFAR10, root, progress=progress.advance)
    images = load_images("cifar10", root, "train")
    print(f"{archive}: read {len(images):,} training images of {len(images.classes)} classes")
    print(f"use it with --data {root}")
    return 0
