from __future__ import annotations

import numpy as np
import pytest

from deploy.core.errors import InputError
from eval.measure.analyses.stored_map import LARGEST_PX, map_codes, store_map


def test_a_map_comes_back_within_half_a_step() -> None:
    values = np.random.default_rng(0).normal(size=(9, 14))
    stored = store_map(values)
    step = (stored["high"] - stored["low"]) / 255
    back = stored["low"] + map_codes(stored) * step
    assert np.abs(back - values).max() <= 0.51 * step


def test_a_given_range_is_kept_and_clips() -> None:
    codes = map_codes(store_map(np.array([[-1.0, 0.5, 9.0]]), low=0.0, high=1.0))
    assert codes.tolist() == [[0, 128, 255]]


def test_a_constant_map_is_stored() -> None:
    assert map_codes(store_map(np.zeros((2, 2)))).tolist() == [[0, 0], [0, 0]]


def test_a_large_map_is_averaged_down() -> None:
    values = np.zeros((LARGEST_PX * 2 + 1, LARGEST_PX))
    values[:3] = 1.0
    codes = map_codes(store_map(values))
    assert codes.shape == (43, 22)
    assert (codes[0] == 255).all()
    assert (codes[1:] == 0).all()


@pytest.mark.parametrize("stored", [{}, {"png": "%%%"}, {"png": "aGVsbG8="}, {"png": None}])
def test_a_damaged_map_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(InputError, match="damaged"):
        map_codes(stored)


def test_only_a_finite_map_is_stored() -> None:
    with pytest.raises(InputError, match="finite map"):
        store_map(np.array([[np.nan]]))
