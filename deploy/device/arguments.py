"""The options of the command, and the settings that they give."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.parser import Parser
from .certifying import CertifySettings
from .search import SearchSettings
from .steps import ONNXRUNTIME
from .validation import ValidationSettings


def _count(text: str) -> int:
    """A number of things, which fits 32 bits."""
    value = int(text)
    if not 0 <= value < 1 << 31:
        raise ValueError
    return value


_count.__name__ = "count"  # argparse shows it


def _sha256(text: str) -> str:
    """64 hexadecimal digits, in lower case."""
    if re.fullmatch("[0-9a-fA-F]{64}", text) is None:
        raise ValueError
    return text.lower()


_sha256.__name__ = "SHA-256 of 64 hexadecimal digits"


def build_parser(engines: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser; it has ``--engine`` where names of engines are given."""
    parser = Parser(
        prog="validate",
        description="Check a bundle on this machine and decide whether its model may ship.",
        epilog=(
            "exit codes: 0 pass, 1 a gate failed, 2 broken bundle or engine, "
            "3 nothing evaluated or too few images to decide, 4 usage"
        ),
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder or file")
    parser.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="threads of the engine (default: 1)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("report.json"),
        metavar="F",
        help="JSON report to write (default: report.json); - is standard output",
    )
    parser.add_argument(
        "--junit",
        type=Path,
        default=Path("junit.xml"),
        metavar="F",
        help="JUnit report to write (default: junit.xml)",
    )
    parser.add_argument(
        "--sarif", type=Path, metavar="F", help="also write the report as SARIF 2.1.0 to this file"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="F", help="also write a summary as Markdown to this file"
    )
    parser.add_argument(
        "--code-quality",
        type=Path,
        metavar="F",
        help="also write GitLab's Code Quality JSON to this file",
    )
    parser.add_argument(
        "--badge",
        type=Path,
        metavar="F",
        help="also write the JSON of a shields.io badge to this file",
    )
    for name, what in (
        ("--max-asr", "the attack success rate of each gated patch must be under X"),
        ("--max-drift", "largest difference of an ASR from the lab's, on the same images"),
        ("--min-clean", "the clean accuracy must be over X"),
    ):
        parser.add_argument(
            name, type=float, metavar="X", help=f"{what}, 0 to 1 (default: the manifest's)"
        )
    parser.add_argument(
        "--require-integer",
        action="store_true",
        help="gate: every layer must run in integers on this machine (layers of an adopted "
        "file may run in float)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="stop as soon as the thresholds are decided"
    )
    parser.add_argument(
        "--require-signature",
        type=Path,
        metavar="PUB",
        help="Ed25519 public key, PEM, that must have signed the bundle (needs cryptography)",
    )
    parser.add_argument(
        "--manifest-sha256",
        type=_sha256,
        metavar="HEX",
        help="accept only the bundle whose manifest has this SHA-256, as qadtr bundle prints it",
    )
    _add_search(parser)
    _add_certify(parser)
    parser.set_defaults(engine=ONNXRUNTIME, engine_file=None)
    if engines is not None:
        parser.add_argument(
            "--engine",
            metavar="NAME",
            help=f"one of {', '.join(engines)} (default: {ONNXRUNTIME})",
        )
        parser.add_argument(
            "--engine-file",
            type=Path,
            metavar="FILE",
            help="engine file built earlier from the bundle's model, for an engine that has "
            "such files",
        )
    return parser


_SEARCH = {
    "queries": "queries",
    "search_size": "size_px",
    "search_images": "images",
    "search_answers": "answers",
    "search_location": "location",
    "search_target": "target",
    "seed": "seed",
    "max_search_asr": "max_asr",
}
"""Options of the search, by the setting that each gives."""


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "search",
        "search for patches against this engine itself (Sparse-RS); this needs no gradient",
    )
    group.add_argument(
        "--search", action="store_true", help="search, in addition to the bundle's patches"
    )
    group.add_argument(
        "--queries", type=_count, metavar="N", help="queries per image (default: 1000)"
    )
    group.add_argument(
        "--search-size",
        type=_count,
        metavar="PX",
        help="side of the patches in pixels (default: that of the first gated patch)",
    )
    group.add_argument(
        "--search-images", type=_count, metavar="N", help="largest number of images (default: 100)"
    )
    group.add_argument(
        "--search-answers",
        choices=("logits", "classes"),
        help="answers of the engine that the search may use (default: logits)",
    )
    group.add_argument(
        "--search-location",
        choices=("random", "fixed"),
        help="position of the patch: also searched for (random), or the centre (fixed) "
        "(default: random)",
    )
    group.add_argument(
        "--search-target",
        type=_count,
        metavar="CLASS",
        help="index of the class that the patch shall cause",
    )
    group.add_argument("--seed", type=_count, metavar="N", help="seed of the search (default: 0)")
    group.add_argument(
        "--max-search-asr",
        type=float,
        metavar="X",
        help="gate: the rate of the patches found must be under X, 0 to 1 (default: no gate)",
    )
    group.add_argument(
        "--search-out", type=Path, metavar="F.npz", help="also write the patches found to this file"
    )


def _given(arguments: argparse.Namespace, settings: Mapping[str, str]) -> dict[str, Any]:
    """The values that the command line gives for some settings, by the setting's name."""
    return {
        setting: getattr(arguments, option)
        for option, setting in settings.items()
        if getattr(arguments, option) is not None
    }


def _search_settings(arguments: argparse.Namespace) -> SearchSettings | None:
    given = _given(arguments, _SEARCH)
    if arguments.search:
        if arguments.search_out is not None and arguments.search_out.suffix != ".npz":
            raise UsageError(f"--search-out expects a .npz file, got {arguments.search_out.name}")
        return SearchSettings(**given)
    alone = [name for name in (*_SEARCH, "search_out") if getattr(arguments, name) is not None]
    if alone:
        raise UsageError(
            f"--{alone[0].replace('_', '-')} has no effect without --search; add --search"
        )
    return None


_CERTIFY = {
    "certified": "patch_px",
    "certify_images": "images",
    "masks_per_axis": "masks_per_axis",
    "min_certified": "min_certified",
}
"""Options of the certificate, by the setting that each gives."""


def _add_certify(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "certificate", "count the images on which no patch of a size can win, by masked inference"
    )
    group.add_argument(
        "--certified",
        type=_count,
        metavar="PX",
        help="certify against patches of this side in pixels",
    )
    group.add_argument(
        "--certify-images", type=_count, metavar="N", help="largest number of images (default: 100)"
    )
    group.add_argument(
        "--masks-per-axis",
        type=_count,
        metavar="K",
        help="use K×K masks and all pairs of them (default: 6)",
    )
    group.add_argument(
        "--min-certified",
        type=float,
        metavar="X",
        help="gate: the certified share must be over X, 0 to 1 (default: no gate)",
    )


def _certify_settings(arguments: argparse.Namespace) -> CertifySettings | None:
    given = _given(arguments, _CERTIFY)
    if given and "patch_px" not in given:
        first = next(option for option, setting in _CERTIFY.items() if setting in given)
        raise UsageError(
            f"--{first.replace('_', '-')} has no effect without --certified; add --certified PX"
        )
    return CertifySettings(**given) if given else None


def settings_of(arguments: argparse.Namespace) -> ValidationSettings:
    """What the options of :func:`build_parser` ask for.

    Raises:
        UsageError: an option has no effect without another, or expects another kind of file.
    """
    return ValidationSettings(
        threads=arguments.threads,
        quick=arguments.quick,
        thresholds={
            "max_asr": arguments.max_asr,
            "max_drift": arguments.max_drift,
            "min_clean": arguments.min_clean,
        },
        public_key=arguments.require_signature,
        manifest_sha256=arguments.manifest_sha256,
        engine=arguments.engine,
        engine_file=arguments.engine_file,
        search=_search_settings(arguments),
        search_out=arguments.search_out,
        certify=_certify_settings(arguments),
        require_integer=arguments.require_integer,
    )
