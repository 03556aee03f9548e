"""Plain quantization-aware training: no defense, the shared-weight baseline of every table."""

from __future__ import annotations

from training.defenses.defense import TrainingFacts
from training.defenses.schedule import Schedule, ScheduledDefense
from training.validated import validated


@validated()
class QatSettings:
    """``schedule``: the order of the bit-widths, the same choices as QADT-R's DBWT has."""

    schedule: Schedule = "cycle"


class PlainQat(ScheduledDefense):
    """Clean batches at a scheduled bit-width."""

    settings_type = QatSettings

    def __init__(self, settings: QatSettings, facts: TrainingFacts) -> None:
        super().__init__(settings.schedule, facts)
        self.settings = settings
