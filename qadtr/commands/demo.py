"""`qadtr demo`: the whole line on scikit-learn's scanned digits, by the commands that a user types.

Three ResNet-8: the attacker's (float, undefended, another seed), one trained plainly and one with
the defense. A GAP and a LaVAN patch made on the first are tried on the other two at every
bit-width, in ONNX Runtime's integer kernels.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from pathlib import Path

from qadtr.commands import shared

HELP = "run everything on scikit-learn's digits: train, export, patch, eval, report"

CONFIGS = Path(__file__).resolve().parents[1] / "demo"
SOURCE, PLAIN, DEFENDED, REPORT = "source", "plain", "defended", "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the three runs and the report go."""
    parser.add_argument(
        "--out",
        type=Path,
        default=shared.RUNS / "demo",
        metavar="DIR",
        help="folder of the three runs and the report; an earlier demo there is replaced "
        "(default: runs/demo)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run each command, showing it; the last lines tell where the report is."""
    # Here and not above: the parser imports this module.
    from qadtr.__main__ import build_parser

    start = time.monotonic()
    _make_room(arguments.out)
    parser = build_parser()
    for words in commands(arguments.out):
        print(f"\n$ qadtr {shlex.join(words)}", flush=True)
        step = parser.parse_args(words)
        code = int(step.execute(step))
        if code != 0:
            return code
    print(f"\n{time.monotonic() - start:.0f} s. Open {arguments.out / REPORT} in a browser.")
    return 0


def commands(out: Path) -> list[list[str]]:
    """The commands of the demo, each as the words after `qadtr`."""
    source, plain, defended = (str(out / name) for name in (SOURCE, PLAIN, DEFENDED))
    return [
        *(
            ["train", str(_shown(CONFIGS / f"{name}.toml")), "--out", str(out / name)]
            for name in (SOURCE, PLAIN, DEFENDED)
        ),
        ["export", plain],
        ["export", defended],
        ["patch", source, "--attack", "gap", "--size", "10", "--steps", "150"],
        ["patch", source, "--attack", "lavan", "--size", "8", "--steps", "40"],
        ["eval", plain, defended, "--patches", str(out / SOURCE / "patches")],
        ["report", source, plain, defended, "--out", str(out / REPORT), "--title", "qadtr demo"],
    ]


def _shown(path: Path) -> Path:
    """As a user in the checkout would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _make_room(out: Path) -> None:
    """Remove an earlier demo: records of other weights would stand in the new report.

    Raises:
        UsageError: there is anything else in the folder.
    """
    from deploy.core.errors import UsageError

    if not out.exists():
        return
    others = (
        sorted({path.name for path in out.iterdir()} - {SOURCE, PLAIN, DEFENDED, REPORT})
        if out.is_dir()
        else [out.name]
    )
    if others:
        raise UsageError(
            f"{out} holds files that are not of an earlier demo ({', '.join(others[:3])}); give "
            "another folder with --out"
        )
    shutil.rmtree(out)
