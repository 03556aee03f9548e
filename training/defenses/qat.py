"""Plain quantization-aware training: no defense, the shared-weight baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

from training.defenses.defense import TrainingFacts
from training.defenses.scheduled import ScheduledDefense, check_schedule


@dataclass(frozen=True, kw_only=True)
class QatSettings:
    """``schedule``: the order of the bit-widths, the same choices as QADT-R's DBWT has."""

    schedule: str = "cycle"

    def __post_init__(self) -> None:
        check_schedule(self.schedule)


class PlainQat(ScheduledDefense):
    """Clean batches at a scheduled bit-width."""

    def __init__(self, settings: QatSettings, facts: TrainingFacts) -> None:
        super().__init__(settings.schedule, facts)
        self.settings = settings
