"""``qadtr compare OLD NEW``, and the same on a machine that has only numpy.

There it is ``PYTHONPATH=validate.pyz python -m qadtr_device.compare_command OLD NEW``.

Exit codes: 0 compared (with ``--fail-on-worse``: and nothing is significantly worse) · 1 with
``--fail-on-worse``, something is worse, or is not measured as before · 2 a broken file, or results
of different images · 3 nothing in common · 4 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..core.attack_checks import LOWER_BOUND, AttackVerdict
from ..core.errors import QadtrError, UsageError
from ..core.files import STDOUT, same_place, write_to
from ..core.parser import Parser
from ..core.share import share_in_words
from ..core.strict_json import json_bytes
from ..core.table import Table
from ..core.text import one_line
from .comparison import compare
from .comparison_beside import compare_beside
from .outcome_reading import VerdictOf, read_outcomes

EXIT_WORSE = 1
_SHOWN = 12
"""Images that a line names."""

_COLUMNS = ("model", "what", "old", "new", "difference", "p (Holm)", "images", "verdict")

_percent = partial(share_in_words, decimals=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: the two results, and how to treat their difference."""
    parser.add_argument(
        "old",
        type=Path,
        metavar="OLD",
        help="old result: report.json, evaluation record, run folder or folder of records",
    )
    parser.add_argument(
        "new", type=Path, metavar="NEW", help="new result, likewise, on the same images"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="F",
        help="also write the comparison as JSON to this file; - is standard output",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.05,
        metavar="P",
        help="significance of all tests together (default: 0.05)",
    )
    parser.add_argument(
        "--fail-on-worse",
        action="store_true",
        help="exit 1 if an ASR is significantly higher or the clean accuracy significantly "
        "lower, or if the new result lacks a patch or images of the old one, or has others "
        "instead",
    )


def run(arguments: argparse.Namespace, *verdict_of: VerdictOf) -> int:
    """Compare, print, and return the exit code; errors are raised.

    ``verdict_of`` as in :func:`read_outcomes`: the checks of evaluation records, where the caller
    can read them.
    """
    if not 0.0 < arguments.level < 1.0:
        raise UsageError(f"--level expects a number between 0 and 1, got {arguments.level}")
    for given in (arguments.old, arguments.new):
        if arguments.json is not None and same_place(arguments.json, given):
            raise UsageError(f"--json {arguments.json.name} is an input; give another path")
    old, new = (read_outcomes(path, *verdict_of) for path in (arguments.old, arguments.new))
    found = compare(old, new, level=arguments.level)
    for name, more in compare_beside(arguments.old, arguments.new)._asdict().items():
        found[name] += more
    if arguments.json is not None:
        write_to(arguments.json, json_bytes(found))
    out = sys.stderr if arguments.json == STDOUT else sys.stdout
    for line in comparison_lines(found):
        out.write(f"{line}\n")
    failed = found["worse"] or found["not_measured"]
    return EXIT_WORSE if arguments.fail_on_worse and failed else 0


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the lines that the command prints for a comparison."""
    rows, images, verdicts = [], [], {}
    for row in found["patches"]:
        on = _between(row)
        old, new = (AttackVerdict.of(row[f"attack_checks_{side}"]) for side in ("old", "new"))
        verdicts[f" on {on}" if on else ""] = (old, new)
        rows.append(
            [
                on,
                f"ASR of {_patch(row)}",
                _percent(row["asr_old"], mark=old.mark),
                _percent(row["asr_new"], mark=new.mark),
                *_tested(row),
            ]
        )
        images += _images(row, ("newly_won", "no_longer_won", "count_no_longer", "count_now"))
    for row in found["clean"]:
        old_and_new = (_percent(row[f"accuracy_{side}"]) for side in ("old", "new"))
        rows.append([_between(row), "clean accuracy", *old_and_new, *_tested(row)])
        images += _images(row, ("newly_wrong", "newly_right"))
    # By model; results of one model each have no name for it.
    models = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: models.index(row[0]))
    first = int(models == [""])
    table = Table(columns=_COLUMNS[first:], rows=[row[first:] for row in rows], grouped=not first)
    lines = [*table.text().splitlines(), *(["", *images] if images else []), ""]
    for side in ("old", "new"):
        if found[f"only_in_{side}"]:
            lines.append(f"only in the {side} result: {', '.join(found[f'only_in_{side}'])}")
    for on, (old, new) in verdicts.items():
        lines.append(f"attack checks{on}: old result {old.words} -> new result {new.words}")
    if any(one.mark for both in verdicts.values() for one in both):
        lines.append(LOWER_BOUND)
    lines += [f"not measured as before: {line}" for line in found["not_measured"]]
    worse = ", ".join(found["worse"]) or "nothing"
    lines.append(f"significantly worse at {found['level']:g} (McNemar, Holm): {worse}")
    # A table's lines are clean, and their spaces are its columns.
    start = len(table.text().splitlines())
    return [*lines[:start], *map(one_line, lines[start:])]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line specifies and return the exit code."""
    parser = Parser(prog="compare", description="Compare two results image by image.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except QadtrError as error:
        sys.stderr.write(f"compare: {error.line}\n")
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - one line in place of a traceback
        sys.stderr.write(f"compare: unexpected {type(error).__name__}: {one_line(str(error))}\n")
        return QadtrError.exit_code


def _between(row: Mapping[str, Any]) -> str:
    """The model, or both where they differ; a changed bit-width is always stated."""
    old, new = row["model"], row["model_new"]
    if old != new:
        return f"{old} -> {new}"
    widths = [row.get(f"bit_width_{side}") for side in ("old", "new")]
    if widths[0] != widths[1] and None not in widths:
        return f"{old} {widths[0]} -> {widths[1]} bits".strip()
    return str(old)


def _patch(row: Mapping[str, Any]) -> str:
    if row["patch"] != row["patch_new"]:
        return f"{row['patch']} (named {row['patch_new']} in the new result)"
    return (
        f"{row['patch']} (another patch of that name)"
        if row["same_patch"] is False
        else row["patch"]
    )


def _tested(row: Mapping[str, Any]) -> list[str]:
    """Difference with its interval, p after Holm's correction, images, and the verdict."""
    paired = row["paired"]
    if paired is None:
        return ["no image counts in both results", "", "", row["verdict"]]
    low, high = paired["interval"]
    return [
        f"{paired['difference']:+.2%} [{low:+.2%}, {high:+.2%}]",
        f"{paired['p_holm']:.3g}",
        f"+{paired['only_new']} -{paired['only_old']} of {paired['n']}",
        row["verdict"],
    ]


def _images(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    found = []
    for key in keys:
        count, named = row[f"{key}_n"], row[key][:_SHOWN]
        if count:
            more = ", …" if count > len(named) else ""
            title = " ".join(filter(None, [row.get("patch", "clean"), row["model"]]))
            what = key.replace("_", " ")
            found.append(f"{title}, {what}, {count}: {', '.join(map(str, named))}{more}")
    return found


if __name__ == "__main__":
    sys.exit(main())
