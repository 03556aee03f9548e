"""Which images are used where not all are."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.core.errors import InputError
from training.data.subset import chosen_indices


def test_fewer_are_part_of_more_and_no_class_is_left_out() -> None:
    large = chosen_indices(1000, 200)
    small = chosen_indices(1000, 50)
    assert large.tolist() == sorted(set(large.tolist()))
    assert set(small.tolist()) < set(large.tolist())
    # Ten classes one after the other, as folders list them.
    assert set((small // 100).tolist()) == set(range(10))
    assert np.array_equal(small, chosen_indices(1000, 50))


def test_the_choice_depends_on_how_many_there_are_but_all_is_all() -> None:
    assert not np.array_equal(chosen_indices(1000, 50), chosen_indices(2000, 50))
    assert chosen_indices(7, None).tolist() == chosen_indices(7, 7).tolist() == list(range(7))


@pytest.mark.parametrize("count", [0, -1, 8])
def test_a_count_outside_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="expected 1 to 7 images"):
        chosen_indices(7, count)
