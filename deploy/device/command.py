"""The command: ``python validate.pyz BUNDLE``.

Exit codes: 0 pass · 1 a gate failed · 2 broken bundle or engine, and anything unforeseen ·
3 nothing evaluated, or too few images to decide · 4 usage.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import QadtrError, UsageError
from ..core.files import STDOUT, same_place
from ..core.signals import signals_interrupt
from ..core.text import one_line
from .certifying import CertifySettings
from .console import Console
from .report import ReportPlaces, conclude, empty_report, void_reports, write_report
from .search import SearchSettings
from .steps import ONNXRUNTIME
from .validation import EngineOpener, ValidationSettings, validate

EXIT_BROKEN = 2
EXIT_USAGE = 4


class _Parser(argparse.ArgumentParser):
    """A parser whose usage errors exit 4: 2 means a broken bundle here."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


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
    parser = _Parser(
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


def main(
    argv: Sequence[str] | None = None, *, engines: Mapping[str, EngineOpener] | None = None
) -> int:
    """Validate as the command line specifies and return the exit code."""
    console = Console()
    try:
        arguments = build_parser(None if engines is None else tuple(engines)).parse_args(argv)
        if STDOUT in _outputs(arguments).values():
            console = Console(sys.stderr)  # standard output is for the report
        with signals_interrupt():
            return _run(arguments, console, engines)
    except KeyboardInterrupt as error:
        how = str(error) or "interrupted"
        return _stop(console, f"{how}: nothing is decided", EXIT_BROKEN)
    except QadtrError as error:
        return _stop(console, error.line, error.exit_code)
    except Exception as error:  # noqa: BLE001 - one line in place of a traceback; fails closed
        return _stop(console, f"unexpected {type(error).__name__}: {error}", EXIT_BROKEN)


def _run(
    arguments: argparse.Namespace, console: Console, engines: Mapping[str, EngineOpener] | None
) -> int:
    _check_places(arguments)
    places = ReportPlaces(
        json=arguments.json,
        junit=arguments.junit,
        sarif=arguments.sarif,
        markdown=arguments.markdown,
        code_quality=arguments.code_quality,
        badge=arguments.badge,
    )
    report = empty_report(arguments.bundle.name)
    void_reports(report, places)
    try:
        settings = _settings(arguments)
    except UsageError as error:
        conclude(report, error.exit_code, error.line)
        write_report(report, places)
        raise
    report = validate(arguments.bundle, settings, console, engines=engines)
    with suppress(QadtrError):  # the report then states that it is not a verdict
        write_report(report, places)
    verdict = f"{report['outcome'].upper()} (exit code {report['exit_code']}): {report['reason']}"
    if report["exit_code"] in (2, 4):
        console.complain(f"validate: {verdict}")
    else:
        console.say(verdict, outcome=report["outcome"])
    return int(report["exit_code"])


def _settings(arguments: argparse.Namespace) -> ValidationSettings:
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


def _outputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """The paths that are written, by option, including the JSON that belongs to a patch set."""
    names = ("json", "junit", "sarif", "markdown", "code_quality", "badge", "search_out")
    found = {name: getattr(arguments, name) for name in names}
    outputs = {
        f"--{name.replace('_', '-')}": path for name, path in found.items() if path is not None
    }
    if arguments.search_out is not None:
        outputs["the JSON of --search-out"] = arguments.search_out.with_suffix(".json")
    return outputs


def _check_places(arguments: argparse.Namespace) -> None:
    """No output may name an input, the validator, another output, or a place in the bundle.

    A report inside the bundle's folder would be a file that the manifest does not list.

    Raises:
        UsageError: one does.
    """
    inputs = {
        "the bundle": arguments.bundle,
        "--require-signature": arguments.require_signature,
        "--engine-file": arguments.engine_file,
        "the validator": Path(sys.argv[0]) if sys.argv and sys.argv[0] else None,
    }
    taken = {what: path for what, path in inputs.items() if path is not None}
    bundle = os.path.realpath(arguments.bundle)
    is_folder = False
    with suppress(OSError):  # such as a name that is too long: opening it says so
        is_folder = Path(bundle).is_dir()
    for option, path in _outputs(arguments).items():
        other = next((what for what, one in taken.items() if same_place(path, one)), None)
        if other is not None:
            raise UsageError(f"{option} {path.name} is {other}; give another path")
        place = os.path.realpath(path)
        if is_folder and path != STDOUT and Path(bundle) in Path(place).parents:
            raise UsageError(
                f"{option} {path.name} is inside the bundle and would change it; give a path "
                "outside the bundle"
            )
        taken[option] = path


def _stop(console: Console, message: str, code: int) -> int:
    console.complain(f"validate: {one_line(message)}")
    return code
