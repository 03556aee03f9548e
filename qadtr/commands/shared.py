"""What several subcommands need: a run's images, settings from the command line, provenance."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.data import ImageSet

CHECKPOINT = "checkpoint.safetensors"
RUNS = Path("runs")


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data DIR`: where the images are; what they are, the config or the run tells."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=(
            "folder of the images: cifar-10-batches-py or its .tar.gz in it, or "
            "SPLIT/CLASS/IMAGE; not needed for digits"
        ),
    )


def add_settings(parser: argparse.ArgumentParser, example: str) -> None:
    """`--set KEY=VALUE`, any number of times."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help=f"a setting to change, such as {example}; VALUE as in TOML",
    )


def settings_from(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as a mapping; a VALUE that is no TOML value is taken as text.

    Raises:
        UsageError: a word without "=".
    """
    from deploy.device.errors import UsageError

    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set expects KEY=VALUE, got {word!r}")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text
    return settings


def read_run(run: Path) -> dict[str, Any]:
    """The sidecar of the checkpoint in the folder `run`, checked against the weights.

    Raises:
        InputError: there is no such folder or no whole checkpoint in it.
    """
    from deploy.device.errors import InputError
    from training.checkpoint import read_sidecar

    if not run.is_dir():
        raise InputError(f"there is no run folder {run}; make one with: qadtr train CONFIG")
    return read_sidecar(run / CHECKPOINT)


def images_of_run(sidecar: Mapping[str, Any], data: Path | None, split: str) -> ImageSet:
    """One split of the data set that a run was trained on, in the size it was trained on.

    Raises:
        InputError: the images are missing or damaged, or have other classes than the run's.
    """
    from deploy.device.errors import InputError
    from training.data import load_images

    settings = sidecar["config"]["data"]
    images = load_images(settings["kind"], data, split, size=settings["size"])
    if list(images.classes) != list(sidecar["classes"]):
        raise InputError(
            f"{data} has the classes {', '.join(images.classes)}, but the run was trained on "
            f"{', '.join(sidecar['classes'])}; give the data that it was trained on"
        )
    return images


def repository() -> Path | None:
    """The checkout that this code runs from, for the commit in a record; None when installed."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None
