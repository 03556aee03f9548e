"""The effective thresholds, and the source of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.share import share_of

NAMES = ("max_asr", "max_drift", "min_clean")
COMMAND_LINE = "command line"

CLEAN_MARGIN = 0.05
"""How far under the lab's clean accuracy, its lower bound, the default of ``min_clean`` lies."""


def default_min_clean(lab: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the default least clean accuracy, 0…1: nearly the accuracy of the lab.

    It is the lower end of Wilson's 95% interval of the lab's accuracy on the bundle's images, minus
    5 points, so that a device that computes the same passes with as few as twenty images.

    Args:
        lab: int64 N, classes that the lab's network gave.
        labels: int64 N.

    Raises:
        NothingToEvaluate: N is 0.
    """
    return round(max(0.0, share_of(lab == labels)["low"] - CLEAN_MARGIN), 4)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A share, 0…1, or None where nothing is required; and its source: "manifest", "command line"
    or "lab"."""

    value: float | None
    origin: str

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"value": self.value, "from": self.origin}


def effective_thresholds(
    manifest: Mapping[str, float | None], command_line: Mapping[str, float | None]
) -> dict[str, Threshold]:
    """Return each threshold by name; one from the command line takes precedence.

    Raises:
        UsageError: a value from the command line outside 0…1.
    """
    found = {}
    for name in NAMES:
        given = command_line.get(name)
        if given is None:
            found[name] = Threshold(value=manifest[name], origin="manifest")
            continue
        if not 0.0 <= given <= 1.0:  # NaN is outside too
            raise UsageError(f"--{name.replace('_', '-')} expects a share of 0 to 1, got {given}")
        found[name] = Threshold(value=given, origin=COMMAND_LINE)
    return found
