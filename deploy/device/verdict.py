"""The verdict of a validation: the outcome of every gate, and the overall outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..core.attack_checks import AttackVerdict
from ..core.double_masking import Certification
from .evidence import CLASSES
from .figures import weaker_than_noise
from .gate import Check, exit_code_of, or_undecided, share_at_least, share_at_most
from .measuring import Measurement, checks_of
from .search import SearchResult
from .suite import Suite
from .thresholds import Threshold

OF_SEARCH = "max_asr of the search"
MIN_CERTIFIED = "min_certified"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The checks of the gates, in their order, the command's exit code, and the reason."""

    checks: Sequence[Check]
    exit_code: int
    reason: str


def verdict_on(
    measured: Measurement,
    suite: Suite,
    thresholds: Mapping[str, Threshold],
    *,
    patches: Sequence[Mapping[str, Any]],
    attack_checks: AttackVerdict,
    in_float: Mapping[str, int] | None,
    searched: SearchResult | None,
    max_asr_of_search: float | None,
    certified: Certification | None,
    min_certified: float | None,
    integer: Check | None,
) -> Verdict:
    """Evaluate every gate.

    Args:
        measured: clean accuracy and attack success on ``suite``, gated by ``thresholds``.
        patches: their figures, as the report has them.
        attack_checks: the lab's, of its attacks on this model.
        in_float: layers of a third-party file that ran in float, by kind; None for other files.
        searched: patches found here, gated by ``max_asr_of_search``; None with such a gate means
            that no image counts.
        certified: gated by ``min_certified``.
        integer: the gate that requires integers, where there is one.

    Raises:
        NothingToEvaluate: nothing is gated, or no image was run.
    """
    checks = checks_of(measured, suite, thresholds)
    if checks and max_asr_of_search is not None:
        won = {"k": 0, "n": 0} if searched is None else searched.success.share
        ask = partial(share_at_most, OF_SEARCH, max_asr_of_search, won["k"], won["n"])
        checks.append(or_undecided(OF_SEARCH, max_asr_of_search, ask))
    if checks and certified is not None and min_certified is not None:
        held = certified.certified
        checks.append(share_at_least(MIN_CERTIFIED, min_certified, held["k"], held["n"]))
    if checks and integer is not None:
        checks.append(integer)
    weaker = weaker_than_noise(patches)
    checks = [
        replace(
            check,
            reason=attack_checks.noted(check.name, check.reason) + weaker.get(check.name, ""),
        )
        for check in checks
    ]
    code = exit_code_of(checks)
    deciding = [check for check in checks if check.outcome.value != "pass"]
    if deciding:
        reason = "; ".join(f"{check.name}: {check.reason}" for check in deciding)
        return Verdict(checks=checks, exit_code=code, reason=reason)
    classes = next(check.reason for check in checks if check.name == CLASSES)
    passed = f"all {len(checks)} gates passed; {classes}"
    if in_float is not None:
        passed += f"; {sum(in_float.values())} layers of the third-party file ran in float"
    reason = attack_checks.noted("all", passed + "".join(weaker.values()))
    return Verdict(checks=checks, exit_code=code, reason=reason)
