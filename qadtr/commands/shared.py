"""What several subcommands share: the data folder, settings from words, the repository."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNS = Path("runs")


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data DIR`: where the images are; what they are, the config or the run tells."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=(
            "folder of the images: cifar-10-batches-py or its .tar.gz in it, train.npz and "
            "test.npz, or SPLIT/CLASS/IMAGE; not needed for digits"
        ),
    )


def add_code_flips(parser: argparse.ArgumentParser) -> None:
    """`--code-flips SHARE`: the budget of a layer against fake quantization."""
    parser.add_argument(
        "--code-flips",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="largest share of one layer's codes that may differ from the fake-quantized "
        "network's (default: 0.05); an exact network may differ nowhere",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """`--cache DIR`: decoded images on disk, for data of the kind "folder"."""
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=(
            "keep the decoded images in this folder and map them from there, for folders of "
            "images that are larger than the memory (default: decode them into memory)"
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
    from deploy.core.errors import UsageError

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


def repository() -> Path | None:
    """The checkout that this code runs from, for the commit in a record; None when installed."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None
