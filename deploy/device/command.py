"""The command: ``python validate.pyz BUNDLE``.

Exit codes: 0 pass · 1 a gate failed · 2 broken bundle or engine, and anything unforeseen ·
3 nothing evaluated, or too few images to decide · 4 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from .console import Console
from .errors import QadtrError, UsageError
from .report import conclude, one_line, write_report
from .validation import ONNXRUNTIME, EngineOpener, ValidationSettings, validate

EXIT_BROKEN = 2
EXIT_USAGE = 4


class _Parser(argparse.ArgumentParser):
    """A parser whose usage errors exit 4: 2 means a broken bundle here."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def build_parser(engines: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser; it has ``--engine`` where names of engines are given."""
    parser = _Parser(
        prog="validate",
        description="Check a bundle on this machine and say whether its model may ship.",
        epilog=(
            "exit codes: 0 pass, 1 a gate failed, 2 broken bundle or engine, "
            "3 nothing evaluated or too few images to decide, 4 usage"
        ),
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder or file")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--json", type=Path, default=Path("report.json"), metavar="F", help="default: report.json"
    )
    parser.add_argument(
        "--junit", type=Path, default=Path("junit.xml"), metavar="F", help="default: junit.xml"
    )
    for name, what in (
        ("--max-asr", "the attack success rate of each gated patch must be under X"),
        ("--max-drift", "largest difference of an ASR to the lab's, same images"),
        ("--min-clean", "the clean accuracy must be over X"),
    ):
        parser.add_argument(
            name, type=float, metavar="X", help=f"{what}, 0 to 1 (default: the manifest's)"
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
    parser.set_defaults(engine=ONNXRUNTIME)
    if engines is not None:
        parser.add_argument(
            "--engine",
            metavar="NAME",
            help=f"one of {', '.join(engines)} (default: {ONNXRUNTIME})",
        )
    return parser


def main(
    argv: Sequence[str] | None = None, *, engines: Mapping[str, EngineOpener] | None = None
) -> int:
    """Validate as the command line says and return the exit code."""
    console = Console()
    try:
        arguments = build_parser(None if engines is None else tuple(engines)).parse_args(argv)
        return _run(arguments, console, engines)
    except KeyboardInterrupt:
        return _stop(console, "interrupted: nothing is decided", EXIT_BROKEN)
    except BrokenPipeError:
        # The reader of our output has gone; keep Python from complaining, and from exit code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN
    except QadtrError as error:
        return _stop(console, str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - one line in place of a traceback; fails closed
        return _stop(console, f"unexpected {type(error).__name__}: {error}", EXIT_BROKEN)


def _run(
    arguments: argparse.Namespace, console: Console, engines: Mapping[str, EngineOpener] | None
) -> int:
    _check_places(arguments)
    settings = ValidationSettings(
        threads=arguments.threads,
        quick=arguments.quick,
        thresholds={
            "max_asr": arguments.max_asr,
            "max_drift": arguments.max_drift,
            "min_clean": arguments.min_clean,
        },
        public_key=arguments.require_signature,
        engine=arguments.engine,
    )
    report = validate(arguments.bundle, settings, console, engines=engines)
    try:
        write_report(report, arguments.json, arguments.junit)
    except QadtrError as error:
        # A verdict that nobody can read later is none.
        conclude(report, EXIT_BROKEN, str(error))
    verdict = f"{report['outcome'].upper()} (exit code {report['exit_code']}): {report['reason']}"
    if report["exit_code"] in (2, 4):
        console.complain(f"validate: {verdict}")
    else:
        console.say(verdict)
    return int(report["exit_code"])


def _check_places(arguments: argparse.Namespace) -> None:
    """A report inside the bundle's folder would be a file that the manifest does not list."""
    if not arguments.bundle.is_dir():
        return
    folder = arguments.bundle.resolve()
    for option in ("json", "junit"):
        place = getattr(arguments, option).resolve()
        if folder in place.parents:
            raise UsageError(
                f"--{option} {place.name} would lie inside the bundle, which would then be another "
                f"bundle: name a place outside of it with --{option}"
            )


def _stop(console: Console, message: str, code: int) -> int:
    try:
        console.complain(f"validate: {one_line(message)}")
    except (OSError, ValueError):  # nobody listens
        return EXIT_BROKEN
    return code
