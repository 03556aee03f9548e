"""The verdict of the lab's checks of its attacks on a model, and the mark next to its rates.

An attack success rate is only as reliable as the attack. The checks (docs/checks.md) are run in the
lab; a bundle carries their verdict to the device, and the device's report repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11

MARK = "†"
"""Stands beside every attack success rate of a model with a tripped check."""

LOWER_BOUND = (
    f"{MARK}: a check of the attack tripped, so the rate is a lower bound on what an attacker "
    "can do."
)
"""Stands below every table and picture with a marked rate."""

NOT_CHECKED = "not checked"

_OF_ATTACKS = ("max_asr", "max_drift", "all")
"""First words of the gates that are of an attack success rate."""


@dataclass(frozen=True, kw_only=True)
class AttackVerdict:
    """The verdict on one model at one bit-width.

    Attributes:
        tripped: names of the checks that tripped.
        words: the verdict in a few words, such as "undecided: doubled-steps; 14 passed".
    """

    tripped: tuple[str, ...] = ()
    words: str = NOT_CHECKED

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Self:
        """From ``attack_checks`` of a manifest or a report; "not checked" where there are none."""
        if record is None:
            return cls()
        return cls(tripped=tuple(record["tripped"]), words=record["words"])

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"tripped": list(self.tripped), "words": self.words}

    @property
    def mark(self) -> str:
        """The mark next to each rate: empty unless a check tripped."""
        return MARK if self.tripped else ""

    def noted(self, gate: str, reason: str) -> str:
        """The reason of a gate, or of "all" together; where a check tripped and it is about an
        attack success rate, it states that the rate is a lower bound."""
        if not self.tripped or gate.partition(" ")[0] not in _OF_ATTACKS:
            return reason
        return f"{reason} ({MARK} a lower bound: tripped {', '.join(self.tripped)})"
