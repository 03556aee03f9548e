"""What several subcommands share: options, the settings that they give, and the provenance."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qadtr.arguments import count, share
from qadtr.origin import provenance as provenance
from qadtr.origin import repository as repository

RUNS = Path("runs")

_T = TypeVar("_T")


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data DIR`: the folder of the images; the config or the run states their kind."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=(
            "folder of the images: it holds cifar-10-batches-py or its .tar.gz, or train.npz and "
            "test.npz, or SPLIT/CLASS/IMAGE; not needed for digits"
        ),
    )


def add_code_flips(parser: argparse.ArgumentParser) -> None:
    """`--code-flips SHARE`: the budget of a layer against fake quantization."""
    parser.add_argument(
        "--code-flips",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="largest share of one layer's codes that may differ from the fake-quantized "
        "network's (default: 0.05); an exact network may not differ in any code",
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    """`--data DIR` and `--cache DIR`: decoded images on disk, for data of the kind "folder"."""
    add_data(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=(
            "keep the decoded images in this folder and map them from there, for folders of "
            "images that are larger than the memory (default: decode them into memory)"
        ),
    )


def add_bits(parser: argparse.ArgumentParser, default: str = "all of the network") -> None:
    """`--bits`, any number of bit-widths."""
    parser.add_argument(
        "--bits",
        type=count,
        nargs="+",
        dest="bit_widths",
        metavar="BITS",
        help=f"bit-widths (default: {default})",
    )


def add_split(
    parser: argparse.ArgumentParser,
    about: str = "split of the images, for patches that do not record it (default: test)",
) -> None:
    """`--split`: test images, or those held out of the training set."""
    parser.add_argument("--split", default="test", choices=("test", "holdout"), help=about)


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


def patch_size(text: str) -> int | str:
    """A side in pixels, or a share of the image's area such as "5%", as argparse's type."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    from deploy.core.errors import InputError
    from training.patch_sizes import share_of

    try:
        share_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def refuse_without_effect(
    arguments: argparse.Namespace, options: Mapping[str, object], because: str
) -> None:
    """Refuse options that were given and would do nothing.

    Args:
        options: the value of each when it is not given, by its name in ``arguments``.
        because: what makes them idle.

    Raises:
        UsageError: naming them.
    """
    from deploy.core.errors import UsageError

    names = {"settings": "set", "bit_widths": "bits", "random_precision": "random-precision"}
    given = [
        f"--{names.get(name, name.replace('_', '-'))}"
        for name, idle in options.items()
        if getattr(arguments, name) != idle
    ]
    if given:
        raise UsageError(f"{', '.join(given)} has no effect {because}; leave it out")


def settings_of(kind: Callable[..., _T], arguments: argparse.Namespace, **others: Any) -> _T:
    """The settings class ``kind`` with the options that are named as its fields are, and
    ``others``; a list is taken as a tuple."""
    names = {field.name for field in dataclasses.fields(kind)} & vars(arguments).keys()  # type: ignore[arg-type]
    given = {name: getattr(arguments, name) for name in names}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()} | others)


def add_image_form(parser: argparse.ArgumentParser, without: str) -> None:
    """``--mean``, ``--std`` and ``--size``: what an ONNX file does not say of its image.

    ``without`` ends the help of the first two.
    """
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="V",
            help=(
                f"{name} of each channel, or one for all: the file's input is (byte / 255 - "
                "mean) / std"
            )
            + without,
        )
    parser.add_argument(
        "--size",
        type=count,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images, where the file leaves it open",
    )


def settings_from(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as a mapping; a VALUE that is not a TOML value is taken as text.

    Raises:
        UsageError: a word without "=".
    """
    from deploy.core.errors import InputError, UsageError
    from training.toml_file import parse_toml

    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set expects KEY=VALUE, got {word!r}")
        try:
            settings[key.strip()] = parse_toml(f"value = {text}", word)["value"]
        except InputError:
            settings[key.strip()] = text
    return settings
