"""A defense whose bit-width follows one of the named schedules; all but DWQ are."""

from __future__ import annotations

from deploy.core.errors import InputError
from training.defenses.defense import Defense, TrainingFacts
from training.defenses.schedule import SCHEDULES, scheduled_bit_width


def check_schedule(schedule: str) -> None:
    """``InputError`` naming the schedules, if this is none of them."""
    if schedule not in SCHEDULES:
        raise InputError(
            f"defense.schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}"
        )


class ScheduledDefense(Defense):
    """Chooses the bit-width of a step by ``schedule``, a pure function of (step, seed)."""

    def __init__(self, schedule: str, facts: TrainingFacts) -> None:
        self.schedule = schedule
        self.facts = facts

    def bit_width(self, step: int) -> int:
        """See :func:`training.defenses.schedule.scheduled_bit_width`."""
        return scheduled_bit_width(
            self.schedule,
            self.facts.bit_widths,
            step,
            steps=self.facts.steps,
            seed=self.facts.seed,
        )
