"""The thresholds that hold, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import UsageError

NAMES = ("max_asr", "max_drift", "min_clean")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A share, 0…1, or None where nothing is asked for; and "manifest" or "command line"."""

    value: float | None
    origin: str

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"value": self.value, "from": self.origin}


def effective_thresholds(
    manifest: Mapping[str, float | None], command_line: Mapping[str, float | None]
) -> dict[str, Threshold]:
    """Return each threshold by name; the command line's wins where it gives one.

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
        found[name] = Threshold(value=given, origin="command line")
    return found
