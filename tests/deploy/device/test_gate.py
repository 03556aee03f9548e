"""The gate passes falsely no more often than it says, in full runs and quick ones."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import integrate

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.success import attack_success
from deploy.device.gate import (
    Bounds,
    Outcome,
    drift_at_most,
    exit_code_of,
    fixed_bounds,
    images_that_decide,
    log_evidence_below,
    sequence_bounds,
    share_at_least,
    share_at_most,
)
from deploy.device.measuring import departures
from deploy.device.sequential import SequentialGate

SIMULATIONS = 1000
IMAGES = 1000
LOOK_EVERY = 50


@cache
def full_outcome(threshold: float, successes: int) -> Outcome:
    return share_at_most("asr", threshold, successes, IMAGES).outcome


def full_passes(threshold: float, true_asr: float, seed: int) -> int:
    rng = np.random.default_rng(seed)
    successes = rng.binomial(IMAGES, true_asr, SIMULATIONS)
    return sum(full_outcome(threshold, int(k)) is Outcome.PASS for k in successes)


def quick_passes(threshold: float, true_asr: float, seed: int) -> int:
    rng = np.random.default_rng(seed)
    passes = 0
    for _ in range(SIMULATIONS):
        won = rng.random(IMAGES) < true_asr
        gate = SequentialGate("asr", threshold, at_most=True)
        for n in range(LOOK_EVERY, IMAGES + 1, LOOK_EVERY):
            if gate.look(int(won[:n].sum()), n) is not Outcome.UNDECIDED:
                break
        passes += gate.outcome is Outcome.PASS
    return passes


@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_at_the_threshold_few_validations_pass(threshold: float) -> None:
    assert full_passes(threshold, threshold, seed=1) <= 36
    assert quick_passes(threshold, threshold, seed=2) <= 36


def test_five_points_over_the_threshold_none_passes() -> None:
    assert full_passes(0.2, 0.25, seed=3) == 0
    assert quick_passes(0.2, 0.25, seed=4) == 0


def test_well_under_the_threshold_nearly_all_pass() -> None:
    assert full_passes(0.3, 0.2, seed=5) > 990
    assert quick_passes(0.3, 0.2, seed=6) > 990


def test_looking_at_the_fixed_bounds_again_and_again_would_pass_falsely() -> None:
    # What the sequence is for: the same looks with bounds for one look.
    rng = np.random.default_rng(7)
    passes = 0
    for _ in range(150):
        won = rng.random(IMAGES) < 0.3
        looks = range(LOOK_EVERY, IMAGES + 1, LOOK_EVERY)
        passes += any(_high(int(won[:n].sum()), n) < 0.3 for n in looks)
    assert passes > 0.05 * 150


@cache
def _high(successes: int, trials: int) -> float:
    return fixed_bounds(successes, trials).high


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (3, 20), (20, 20), (70, 200)])
@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.9])
def test_the_evidence_is_the_mixture_of_likelihood_ratios(
    successes: int, trials: int, threshold: float
) -> None:
    def ratio(q: float) -> float:
        failures = trials - successes
        return (q / threshold) ** successes * ((1 - q) / (1 - threshold)) ** failures / threshold

    mixture, _ = integrate.quad(ratio, 0, threshold, limit=200)
    evidence = log_evidence_below(threshold, successes, trials)
    assert evidence == pytest.approx(math.log(mixture), rel=1e-6, abs=1e-6)


def test_sequence_bounds_contain_the_fixed_ones_and_shrink() -> None:
    for successes, trials in [(0, 10), (2, 30), (30, 100), (99, 100), (100, 100)]:
        wide, narrow = sequence_bounds(successes, trials), fixed_bounds(successes, trials)
        assert wide.low <= narrow.low <= successes / trials <= narrow.high <= wide.high
    assert sequence_bounds(300, 1000).high < sequence_bounds(30, 100).high
    assert sequence_bounds(0, 10).low == 0.0
    assert sequence_bounds(10, 10).high == 1.0


def test_a_sequential_gate_decides_where_its_bounds_do_and_keeps_to_it() -> None:
    gate = SequentialGate("asr", 0.3, at_most=True)
    assert gate.look(1, 10) is Outcome.UNDECIDED
    assert gate.check().outcome is Outcome.UNDECIDED
    assert gate.look(5, 100) is Outcome.PASS
    assert gate.look(90, 200) is Outcome.PASS
    check = gate.check()
    assert (check.outcome, check.n) == (Outcome.PASS, 100)
    for successes in range(0, 101, 4):
        for at_most in (True, False):
            one = SequentialGate("share", 0.35, at_most=at_most)
            one.look(successes, 100)
            assert one.check().outcome is one.outcome
            bound = SequentialGate("share", 0.35, at_most=at_most, may_fail=False)
            bound.look(successes, 100)
            assert bound.check().outcome is bound.outcome
            assert (bound.outcome is Outcome.PASS) == (one.outcome is Outcome.PASS)
            assert bound.outcome is not Outcome.FAIL


def test_the_three_answers() -> None:
    assert share_at_most("asr", 0.5, 10, 100).outcome is Outcome.PASS
    assert share_at_most("asr", 0.1, 50, 100).outcome is Outcome.FAIL
    assert share_at_most("asr", 0.12, 10, 100).outcome is Outcome.UNDECIDED
    assert share_at_least("clean", 0.5, 90, 100).outcome is Outcome.PASS
    assert share_at_least("clean", 0.95, 50, 100).outcome is Outcome.FAIL
    assert share_at_least("clean", 0.9, 91, 100).outcome is Outcome.UNDECIDED
    # Nothing can be shown to be under 0, or of a share without failures that it is under 1.
    assert share_at_most("asr", 0.0, 0, 10_000).outcome is Outcome.UNDECIDED
    assert share_at_most("asr", 1.0, 10, 10).outcome is Outcome.UNDECIDED
    assert drift_at_most("drift", 0.01, 0.5, 0.505, 100).outcome is Outcome.PASS
    assert drift_at_most("drift", 0.01, 0.5, 0.48, 100).outcome is Outcome.FAIL


@pytest.mark.parametrize("bounds", [fixed_bounds, sequence_bounds])
@pytest.mark.parametrize(("successes", "trials", "threshold"), [(10, 100, 0.12), (91, 100, 0.9)])
def test_an_undecided_gate_says_how_many_images_would_decide(
    bounds: Bounds, successes: int, trials: int, threshold: float
) -> None:
    wanted = images_that_decide(threshold, successes, trials, bounds)
    assert wanted is not None
    assert wanted > trials
    check = share_at_most("asr", threshold, successes, trials, bounds)
    assert check.outcome is Outcome.UNDECIDED
    assert f"at this rate about {wanted:,} images that count would" in check.reason
    share = successes / trials
    more, fewer = int(1.05 * wanted), int(0.85 * wanted)
    after = share_at_most("asr", threshold, round(share * more), more, bounds)
    assert after.outcome is (Outcome.PASS if share < threshold else Outcome.FAIL)
    before = share_at_most("asr", threshold, round(share * fewer), fewer, bounds)
    assert before.outcome is Outcome.UNDECIDED


def test_at_the_threshold_no_number_of_images_decides() -> None:
    assert images_that_decide(0.3, 30, 100) is None
    assert images_that_decide(0.0, 0, 10) is None
    reason = share_at_most("asr", 0.3, 30, 100).reason
    assert "so close to the threshold that no number of images under a million would" in reason
    assert "would" not in share_at_most("asr", 0.5, 30, 1000).reason


def test_exit_codes_of_several_checks() -> None:
    passed = share_at_most("a", 0.5, 10, 100)
    failed = share_at_most("b", 0.1, 50, 100)
    open_ = share_at_most("c", 0.12, 10, 100)
    assert exit_code_of([passed, passed]) == 0
    assert exit_code_of([passed, open_]) == 3
    assert exit_code_of([passed, open_, failed]) == 1
    with pytest.raises(NothingToEvaluate):
        exit_code_of([])


@pytest.mark.parametrize("threshold", [math.nan, -0.1, 1.1, math.inf])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(InputError):
        share_at_most("asr", threshold, 1, 10)
    with pytest.raises(InputError):
        SequentialGate("asr", threshold, at_most=True)
    with pytest.raises(InputError):
        drift_at_most("drift", threshold, 0.1, 0.1, 10)


def test_no_trials_are_an_error() -> None:
    with pytest.raises(NothingToEvaluate):
        sequence_bounds(0, 0)
    with pytest.raises(InputError):
        sequence_bounds(3, 2)


def test_no_drift_is_larger_than_the_share_of_images_whose_outcome_differs() -> None:
    rng = np.random.default_rng(8)
    for _ in range(300):
        labels = rng.integers(0, 3, 12)
        clean = np.where(rng.random(12) < 0.7, labels, rng.integers(0, 3, 12))
        patched = rng.integers(0, 3, 12)
        again, moved = (
            np.where(rng.random(12) < rng.random(), one, rng.integers(0, 3, 12))
            for one in (clean, patched)
        )
        try:
            here, lab = (
                attack_success(first, second, labels)
                for first, second in ((clean, patched), (again, moved))
            )
        except NothingToEvaluate:
            continue
        differ, of = departures(here, lab)
        assert abs(here.share["value"] - lab.share["value"]) <= differ / of + 1e-12


def test_a_drift_of_exactly_the_limit_is_within_it() -> None:
    for n in (50, 99, 500):
        for lab in range(n):
            here = lab + n // 50
            if here <= n:
                limit = (n // 50) / n
                assert drift_at_most("drift", limit, here / n, lab / n, n).outcome is Outcome.PASS
