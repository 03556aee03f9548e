"""Dynamic bit-width training (DBWT): which bit-width each step trains at.

The QADT-R abstract fixes that the bit-width is cycled during training; the orders offered here are
this project's.  Each is a pure function of (step, seed).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from training.defenses.defense import Defense, TrainingFacts
from training.randomness import seed_for

Schedule = Literal["cycle", "uniform", "curriculum", "sandwich"]
"""``cycle``: in turn, widest first. ``uniform``: drawn anew each step. ``curriculum``: drawn from
the widest k of n, where k grows from 1 to n over the first half of the training. ``sandwich``: in
turn the widest, the narrowest and, where there are more than two, one drawn from those between (Yu
and Huang, ICCV 2019, have the three within a step; here each is a step of its own, since a step has
one bit-width)."""


def scheduled_bit_width(
    schedule: Schedule, bit_widths: tuple[int, ...], step: int, *, steps: int, seed: int
) -> int:
    """The bit-width of ``step`` (0-based) out of ``steps``."""
    count = len(bit_widths)
    if schedule == "cycle":
        return bit_widths[step % count]
    if schedule == "curriculum":
        count = min(count, 1 + int(2 * count * step / max(1, steps)))
    if schedule == "sandwich":
        turn = step % min(count, 3)
        if turn < 2:
            return bit_widths[-turn]
        bit_widths, count = bit_widths[1:-1], count - 2
    draw = np.random.default_rng(seed_for(seed, step, "schedule"))
    return bit_widths[int(draw.integers(count))]


class ScheduledDefense(Defense):
    """A defense whose bit-width follows a schedule."""

    def __init__(self, schedule: Schedule, facts: TrainingFacts) -> None:
        self.schedule, self.facts = schedule, facts

    def bit_width(self, step: int) -> int:
        """See :func:`scheduled_bit_width`."""
        facts = self.facts
        return scheduled_bit_width(
            self.schedule, facts.bit_widths, step, steps=facts.steps, seed=facts.seed
        )
