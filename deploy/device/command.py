"""The command: ``python validate.pyz BUNDLE``.

Exit codes: 0 pass · 1 a gate failed · 2 broken bundle or engine, and anything unforeseen ·
3 nothing evaluated, or too few images to decide · 4 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..core.errors import QadtrError, UsageError
from ..core.files import STDOUT, same_place
from ..core.signals import signals_interrupt
from ..core.text import one_line
from .arguments import build_parser, settings_of
from .console import Console
from .report import ReportPlaces, conclude, empty_report, void_reports, write_report
from .validation import EngineOpener, validate


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
        return _stop(console, f"{how}: nothing is decided", QadtrError.exit_code)
    except QadtrError as error:
        return _stop(console, error.line, error.exit_code)
    except Exception as error:  # noqa: BLE001 - one line in place of a traceback; fails closed
        return _stop(console, f"unexpected {type(error).__name__}: {error}", QadtrError.exit_code)


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
        settings = settings_of(arguments)
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
