"""What every check gives back: a verdict, its words and its figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.measure.checks.checks_record import CheckResult, Status

Flags = NDArray[np.bool_]

ALWAYS = 0.95
"""An attack that wins on this share cannot be asked to be much weaker than another."""


def status(*, tripped: bool, passed: bool) -> Status:
    """The verdict; undecided where the images are too few for either."""
    if tripped:
        return "tripped"
    return "passed" if passed else "undecided"


def result(name: str, verdict: Status, measured: str, **figures: Any) -> CheckResult:
    """One check's part of the record; ``figures`` are JSON values."""
    return CheckResult(name=name, status=verdict, measured=measured, figures=figures)


def percent(flags: Flags) -> str:
    """The share that is set, such as "12.5%"."""
    return f"{100 * flags.mean():.1f}%"
