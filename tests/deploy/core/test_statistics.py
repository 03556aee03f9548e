from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.statistics import (
    clopper_pearson,
    mcnemar_exact,
    paired,
    paired_difference,
    wilson,
)

COUNTS = [(0, 1), (1, 1), (0, 17), (17, 17), (3, 17), (50, 100), (2_500, 5_000), (4_999, 5_000)]
COUNTS += [(1, 50_000), (25_000, 50_000), (49_999, 50_000)]


@pytest.mark.parametrize(("successes", "trials"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_is_scipys(successes: int, trials: int, confidence: float) -> None:
    interval = wilson(successes, trials, confidence)
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    # both evaluate one closed form in float64
    np.testing.assert_allclose(
        [interval.low, interval.high], [expected.low, expected.high], rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(("successes", "trials"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.975, 0.999])
def test_clopper_pearson_is_scipys(successes: int, trials: int, confidence: float) -> None:
    for side, alternative in (("two", "two-sided"), ("upper", "less"), ("lower", "greater")):
        interval = clopper_pearson(successes, trials, confidence, side)  # type: ignore[arg-type]
        test = stats.binomtest(successes, trials, alternative=alternative)
        expected = test.proportion_ci(confidence, method="exact")
        # lgamma of 50,000 has an absolute error of 1e-10 or so, which the quantile divides by √n
        np.testing.assert_allclose(
            [interval.low, interval.high], [expected.low, expected.high], rtol=1e-9, atol=1e-11
        )


def test_the_rule_of_three() -> None:
    assert clopper_pearson(0, 1_000, 0.95).high == pytest.approx(1 - 0.05 ** (1 / 1_000), rel=1e-9)
    assert clopper_pearson(0, 1_000).low == 0.0
    assert clopper_pearson(1_000, 1_000, side="lower").low == pytest.approx(0.025**0.001, rel=1e-9)


def test_clopper_pearson_keeps_its_promise_for_every_share() -> None:
    trials = 30
    highs = np.array([clopper_pearson(k, trials).high for k in range(trials + 1)])
    for share in np.linspace(0.01, 0.99, 99):
        missed = stats.binom.pmf(np.arange(trials + 1), trials, share)[highs < share].sum()
        assert missed <= 0.025 + 1e-12


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 12), (12, 3), (7, 7), (0, 40), (300, 420)])
def test_mcnemar_is_scipys_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c, 0.5).pvalue
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-10)


def test_mcnemar_at_the_ends() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 10) == 2 / 2**10
    assert 0.0 <= mcnemar_exact(0, 5_000) < 1e-300


def _pair(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, first, second, neither])
    b = np.repeat([True, False, True, False], [both, first, second, neither])
    return a, b


def test_paired_difference_covers_the_truth() -> None:
    """Exact coverage over all tables of 20 pairs, for shares with and without correlation."""
    n = 20
    tables = [t for t in itertools.product(range(n + 1), repeat=3) if sum(t) <= n]
    intervals = np.array(
        [
            [i.low, i.high]
            for t in tables
            for _, i in [paired_difference(*_pair(t[0], t[1], t[2], n - sum(t)))]
        ]
    )
    counts = np.array([(*t, n - sum(t)) for t in tables])
    coverages = []
    for cells in [(0.7, 0.1, 0.05, 0.15), (0.25, 0.25, 0.25, 0.25), (0.45, 0.05, 0.05, 0.45)]:
        truth = cells[1] - cells[2]
        covered = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
        coverages.append(stats.multinomial.pmf(counts, n, cells)[covered].sum())
    # Newcombe reports coverage between 0.93 and 1 for method 10 with few pairs
    assert min(coverages) > 0.93


def test_paired_difference_by_hand() -> None:
    a, b = _pair(20, 12, 3, 15)
    difference, interval = paired_difference(a, b)
    assert difference == pytest.approx(9 / 50)
    mirrored, other = paired_difference(b, a)
    assert mirrored == -difference
    assert (other.low, other.high) == pytest.approx((-interval.high, -interval.low))
    # method 10 of the paper, written out once more with every number in it
    one, two = wilson(32, 50), wilson(23, 50)
    phi = (20 * 15 - 12 * 3 - 25) / math.sqrt(32 * 18 * 23 * 27)
    low, up = 0.64 - one.low, two.high - 0.46
    assert interval.low == pytest.approx(0.18 - math.sqrt(low**2 - 2 * phi * low * up + up**2))


def test_a_pair_is_counted_from_the_old_to_the_new() -> None:
    old, new = np.arange(10) < 2, np.arange(10) >= 1
    found = paired(old, new)
    assert (found.n, found.only_old, found.only_new) == (10, 1, 8)
    assert (found.difference, found.interval) == paired_difference(new, old)
    assert found.p == mcnemar_exact(1, 8)
    assert found.as_record()["interval"] == [found.interval.low, found.interval.high]


def test_paired_difference_has_a_width_without_differences() -> None:
    everything = np.ones(100, bool)
    difference, interval = paired_difference(everything, everything)
    assert difference == 0.0
    assert -0.06 < interval.low < 0.0 < interval.high < 0.06
    difference, interval = paired_difference(everything, ~everything)
    assert difference == interval.high == 1.0
    assert 0.9 < interval.low < 1.0


def test_empty_and_impossible_input() -> None:
    for function in (wilson, clopper_pearson):
        with pytest.raises(NothingToEvaluate):
            function(0, 0)
        for successes, confidence in ((-1, 0.95), (11, 0.95), (5, 0.0), (5, 1.0), (5, math.nan)):
            with pytest.raises(InputError):
                function(successes, 10, confidence)
    with pytest.raises(InputError, match="upper, lower, two"):
        clopper_pearson(1, 2, 0.9, "left")  # type: ignore[arg-type]
    with pytest.raises(InputError):
        mcnemar_exact(-1, 3)
    yes: Any = np.ones(3, bool)
    with pytest.raises(NothingToEvaluate):
        paired_difference(yes[:0], yes[:0])
    wrongs: list[Any] = [yes[:2], yes.astype(int), [True] * 3, yes.reshape(1, 3)]
    for wrong in wrongs:
        with pytest.raises(InputError):
            paired_difference(yes, wrong)
    with pytest.raises(InputError):
        paired_difference(yes, yes, 2.0)
