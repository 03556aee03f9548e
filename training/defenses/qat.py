"""Plain quantization-aware training: no defense, the shared-weight baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.device.errors import InputError
from training.defenses.defense import Defense, TrainingFacts
from training.defenses.schedule import SCHEDULES, scheduled_bit_width


@dataclass(frozen=True, kw_only=True)
class QatSettings:
    """``schedule``: the order of the bit-widths, the same choices as QADT-R's DBWT has."""

    schedule: str = "cycle"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"defense.schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}"
            )


class PlainQat(Defense):
    """Clean batches at a scheduled bit-width."""

    def __init__(self, settings: QatSettings, facts: TrainingFacts) -> None:
        self.settings = settings
        self.facts = facts

    def bit_width(self, step: int) -> int:
        return scheduled_bit_width(
            self.settings.schedule,
            self.facts.bit_widths,
            step,
            steps=self.facts.steps,
            seed=self.facts.seed,
        )
