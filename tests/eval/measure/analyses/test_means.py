from __future__ import annotations

import numpy as np
import pytest

from deploy.core.errors import InputError, NothingToEvaluate
from eval.measure.analyses.means import mean_of, mean_where, means_of


def test_the_interval_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    mean = mean_of(values)
    error = 1.96 * values.std() / 20
    assert mean["n"] == 400
    assert mean["value"] == pytest.approx(values.mean(), rel=1e-5)
    # 2,000 resamples give the bounds to about 5% of the half width.
    assert mean["low"] == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert mean["high"] == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_equal_values_have_no_spread_and_equal_calls_equal_intervals() -> None:
    assert mean_of(np.full(7, 0.25)) == {"n": 7, "value": 0.25, "low": 0.25, "high": 0.25}
    values = np.random.default_rng(4).random(30)
    assert mean_of(values) == mean_of(values.copy())


def test_a_grid_has_the_means_of_its_places() -> None:
    values = np.random.default_rng(5).random((20, 2, 3))
    mean, low, high = means_of(values)
    assert mean.shape == low.shape == high.shape == (2, 3)
    assert mean[1, 2] == mean_of(values[:, 1, 2])["value"]
    assert low[0, 1] == mean_of(values[:, 0, 1])["low"]


def test_what_is_unknown_is_left_out_and_nothing_is_no_mean() -> None:
    found = mean_where(np.array([1.0, 9.0, 3.0]), np.array([True, False, True]))
    assert found is not None
    assert (found["n"], found["value"]) == (2, 2.0)
    assert mean_where(np.array([1.0]), np.array([False])) is None
    with pytest.raises(NothingToEvaluate):
        mean_of(np.zeros(0))
    with pytest.raises(InputError, match="NaN"):
        mean_of(np.array([1.0, np.nan]))
