"""The verdict: thresholds against bounds, never against point estimates.

A gate passes when the *bound* of a share is on the right side of its threshold, fails when the
opposite bound is on the wrong side, and is undecided when the threshold lies between the two. Each
bound fails with probability 2.5% at most, so a model whose true share is exactly at the threshold
passes in at most 2.5% of all validations. Every gated patch must pass (an intersection-union test),
so that more patches make a false pass rarer, never more frequent.

A full run looks once, at Clopper and Pearson's exact bounds. A quick run looks repeatedly; there
these bounds would give false passes far too often, so it uses bounds that hold at all looks
together.

The quick bounds. Let K of n images be successes, each with probability p, and fix a threshold t.
For q < t the likelihood ratio of q against t, Lₙ(q) = (q/t)ᴷ ((1-q)/(1-t))ⁿ⁻ᴷ, has factors with
expectation p·q/t + (1-p)(1-q)/(1-t) ≤ 1 whenever p ≥ t: the expression falls in p and is 1 at
p = t. So under "p ≥ t" every Lₙ(q), and so their mixture over q uniform on (0, t),

    Mₙ(t) = (1/t) ∫₀ᵗ (q/t)ᴷ ((1-q)/(1-t))ⁿ⁻ᴷ dq
          = B(K+1, n-K+1) · I_t(K+1, n-K+1) / (t · tᴷ (1-t)ⁿ⁻ᴷ),

is a non-negative supermartingale that starts at 1, and by Ville's inequality it *ever* reaches 1/α
with probability α at most. With q = t·u it reads ∫₀¹ uᴷ ((1-tu)/(1-t))ⁿ⁻ᴷ du, which grows in t: the
thresholds that are not rejected form an interval [0, U], and U is an upper bound of p at all looks
together. The lower bound is the same with successes and failures exchanged.

References:
    Clopper and Pearson, Biometrika 26, 1934.
    Ville, Étude critique de la notion de collectif, 1939.
    Robbins, "Statistical methods related to the law of the iterated logarithm", 1970.
    Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
    sequences", Annals of Statistics 49, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..core.errors import InputError, NothingToEvaluate
from ..core.statistics import Interval, beta_cdf, clopper_pearson

CONFIDENCE = 0.975
"""Of each one-sided bound."""

_ROUNDING = 1e-9
"""Far below what one of :data:`MOST_IMAGES` images is of them, far above what a difference of two
shares rounds by."""

MOST_IMAGES = 1_000_000
"""Largest number of images that a reader is advised to use."""

EXIT_PASS, EXIT_FAIL, EXIT_UNDECIDED = 0, 1, 3
REACHED_A_VERDICT = (EXIT_PASS, EXIT_FAIL, EXIT_UNDECIDED)
"""Exit codes of validations that measured all that they were asked for."""


class Outcome(Enum):
    """The outcome of a gate."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


Bounds = Callable[[int, int], Interval]
"""Successes and trials to one-sided bounds, each with confidence 97.5%."""


def fixed_bounds(successes: int, trials: int) -> Interval:
    """Return Clopper and Pearson's bounds: for one look at a number of images fixed before.

    Raises:
        NothingToEvaluate: no trials.
    """
    return Interval(
        clopper_pearson(successes, trials, CONFIDENCE, "lower").low,
        clopper_pearson(successes, trials, CONFIDENCE, "upper").high,
    )


def sequence_bounds(successes: int, trials: int) -> Interval:
    """Return bounds that hold at every look at a growing number of images together.

    Raises:
        NothingToEvaluate: no trials.
        InputError: successes outside 0…trials.
    """
    if trials == 0:
        raise NothingToEvaluate("expected at least 1 trial for a share, got 0")
    if not 0 <= successes <= trials:
        raise InputError(f"expected 0 to {trials} successes, got {successes}")
    return Interval(
        1 - _sequence_upper(trials - successes, trials), _sequence_upper(successes, trials)
    )


def _sequence_upper(successes: int, trials: int) -> float:
    low, high = successes / trials, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if log_evidence_below(middle, successes, trials) < -math.log(1 - CONFIDENCE):
            low = middle
        else:
            high = middle


def log_evidence_below(threshold: float, successes: int, trials: int) -> float:
    """Return ln Mₙ(threshold), the evidence against "the share is ``threshold`` or more"."""
    if not 0.0 < threshold < 1.0:
        return -math.inf  # nothing can speak against "0 or more"; 1 is never excluded
    failures = trials - successes
    inside = beta_cdf(threshold, successes + 1, failures + 1)
    if inside <= 0.0:
        return -math.inf
    log_beta = math.lgamma(successes + 1) + math.lgamma(failures + 1) - math.lgamma(trials + 2)
    return (
        log_beta
        + math.log(inside)
        - (successes + 1) * math.log(threshold)
        - failures * math.log1p(-threshold)
    )


@dataclass(frozen=True, kw_only=True)
class Check:
    """One gate and its result.

    Attributes:
        name: such as "max_asr of lavan-6".
        outcome: of the gate.
        threshold: the threshold that the share was compared with.
        observed: successes / trials, or the difference for the drift; None where nothing counts.
        bounds: of the share; None for the drift, which has none, and where nothing counts.
        n: images that count.
        reason: one sentence.
    """

    name: str
    outcome: Outcome
    threshold: float
    observed: float | None
    bounds: Interval | None
    n: int
    reason: str

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "threshold": self.threshold,
            "observed": self.observed,
            "bounds": None if self.bounds is None else [self.bounds.low, self.bounds.high],
            "n": self.n,
            "reason": self.reason,
        }


def or_undecided(name: str, threshold: float, ask: Callable[[], Check]) -> Check:
    """Return the check of ``ask``, or an undecided one where no image counts for it: this must not
    keep another gate from failing."""
    try:
        return ask()
    except NothingToEvaluate as error:
        return Check(
            name=name,
            outcome=Outcome.UNDECIDED,
            threshold=threshold,
            observed=None,
            bounds=None,
            n=0,
            reason=error.line,
        )


def share_at_most(
    name: str, threshold: float, successes: int, trials: int, bounds: Bounds = fixed_bounds
) -> Check:
    """Compare a share with the largest allowed value.

    Raises:
        NothingToEvaluate: no trials.
        InputError: a threshold outside 0…1.
    """
    return _share(name, threshold, successes, trials, bounds, at_most=True)


def share_at_least(
    name: str, threshold: float, successes: int, trials: int, bounds: Bounds = fixed_bounds
) -> Check:
    """Compare a share with the smallest allowed value; errors as :func:`share_at_most`."""
    return _share(name, threshold, successes, trials, bounds, at_most=False)


def _share(
    name: str, threshold: float, successes: int, trials: int, bounds: Bounds, *, at_most: bool
) -> Check:
    if not 0.0 <= threshold <= 1.0:  # NaN is outside too
        raise InputError(f"expected a threshold of 0 to 1 for {name}, got {threshold}")
    found = bounds(successes, trials)
    under, over = found.high < threshold, found.low > threshold
    right, wrong = (under, over) if at_most else (over, under)
    outcome = Outcome.PASS if right else Outcome.FAIL if wrong else Outcome.UNDECIDED
    word = "at most" if at_most else "at least"
    more = ""
    if outcome is Outcome.UNDECIDED:
        wanted = images_that_decide(threshold, successes, trials, bounds)
        more = (
            f"; at this rate about {wanted:,} images that count would decide"
            if wanted is not None
            else (
                "; the rate is so close to the threshold that no number of images under a "
                "million would decide"
            )
        )
    verdict = {
        Outcome.PASS: "is",
        Outcome.FAIL: "is not",
        Outcome.UNDECIDED: f"{trials} images do not decide whether it is",
    }[outcome]
    return Check(
        name=name,
        outcome=outcome,
        threshold=threshold,
        observed=successes / trials,
        bounds=found,
        n=trials,
        reason=(
            f"{successes} of {trials}, between {found.low:.2%} and {found.high:.2%}: "
            f"{verdict} {word} {threshold:.2%}{more}"
        ),
    )


def images_that_decide(
    threshold: float, successes: int, trials: int, bounds: Bounds = fixed_bounds
) -> int | None:
    """Return the approximate number of images that would decide if the share stayed the same.

    None where :data:`MOST_IMAGES` would not decide: the share is at the threshold, or very close.
    """
    share = successes / trials

    def decides(count: int) -> bool:
        found = bounds(round(share * count), count)
        return found.high < threshold if share < threshold else found.low > threshold

    if share == threshold:
        return None
    high = trials
    while not decides(high):
        if high >= MOST_IMAGES:
            return None
        high = min(2 * high, MOST_IMAGES)
    low = max(trials, high // 2)
    while high - low > max(1, high // 100):  # "about": the count of successes is rounded
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    unit = int("1".ljust(len(str(high)) - 1, "0"))  # two figures
    return -(-high // unit) * unit


def drift_at_most(name: str, threshold: float, here: float, lab: float, n: int) -> Check:
    """Compare the difference to the lab's figure on the same images with a budget.

    There are no bounds: both figures are of all of the bundle's images and patches, so their
    difference is not a sample; it is what this engine does.

    Raises:
        InputError: a threshold outside 0…1.
    """
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"expected a threshold of 0 to 1 for {name}, got {threshold}")
    difference = here - lab
    passed = abs(difference) <= threshold + _ROUNDING
    return Check(
        name=name,
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        threshold=threshold,
        observed=difference,
        bounds=None,
        n=n,
        reason=(
            f"{here:.2%} on this machine, {lab:.2%} in the lab: the difference is "
            f"{'within' if passed else 'beyond'} {threshold:.2%}"
        ),
    )


def exit_code_of(checks: Iterable[Check]) -> int:
    """Return 0 where every check passed, 1 where one failed, 3 where one is undecided.

    Raises:
        NothingToEvaluate: there are no checks, so nothing was gated.
    """
    outcomes = [check.outcome for check in checks]
    if not outcomes:
        raise NothingToEvaluate("there is nothing to gate: the bundle has no gated patch")
    if Outcome.FAIL in outcomes:
        return EXIT_FAIL
    return EXIT_UNDECIDED if Outcome.UNDECIDED in outcomes else EXIT_PASS
