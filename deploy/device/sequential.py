"""A gate that is checked repeatedly, and stops when it has decided."""

from __future__ import annotations

import math
from dataclasses import replace

from ..core.errors import InputError
from .gate import (
    CONFIDENCE,
    Check,
    Outcome,
    log_evidence_below,
    sequence_bounds,
    share_at_least,
    share_at_most,
)

_ENOUGH = -math.log(1 - CONFIDENCE)


class SequentialGate:
    """One share against one threshold, by the sequence of :mod:`gate`.

    The first decision is final: the bounds hold at all looks together, so a value that one look
    excludes stays excluded.

    Args:
        name: for the report.
        threshold: 0…1.
        at_most: whether the share must be at most the threshold, or at least the threshold.
        may_fail: False where the share is only a bound of the gated figure: a share on the wrong
            side of the threshold then proves nothing, and the gate stays undecided.

    Raises:
        InputError: a threshold outside 0…1.
    """

    def __init__(
        self, name: str, threshold: float, *, at_most: bool, may_fail: bool = True
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise InputError(f"expected a threshold of 0 to 1 for {name}, got {threshold}")
        self.name = name
        self.threshold = threshold
        self.at_most = at_most
        self.may_fail = may_fail
        self.outcome = Outcome.UNDECIDED
        self._counts = (0, 0)

    def look(self, successes: int, trials: int) -> Outcome:
        """Take the counts so far (not those since the last look) and return what is decided."""
        if self.outcome is not Outcome.UNDECIDED or trials == 0:
            return self.outcome
        self._counts = (successes, trials)
        # The bound's own definition; solving for the bound at every look costs a hundred of these.
        under = log_evidence_below(self.threshold, successes, trials) >= _ENOUGH
        over = log_evidence_below(1 - self.threshold, trials - successes, trials) >= _ENOUGH
        held, broken = (under, over) if self.at_most else (over, under)
        if held:
            self.outcome = Outcome.PASS
        elif broken and self.may_fail:
            self.outcome = Outcome.FAIL
        return self.outcome

    def check(self) -> Check:
        """Return the decision with the bounds at the look that made it, or at the last.

        Raises:
            NothingToEvaluate: there was no look with a trial.
        """
        hold = share_at_most if self.at_most else share_at_least
        check = hold(self.name, self.threshold, *self._counts, sequence_bounds)
        if check.outcome is Outcome.FAIL and not self.may_fail:
            return replace(check, outcome=Outcome.UNDECIDED)
        return check
