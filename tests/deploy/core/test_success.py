from __future__ import annotations

import json

import numpy as np
import pytest

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.share import share, share_in_words, share_of
from deploy.core.statistics import wilson
from deploy.core.success import (
    accuracy,
    attack_success,
    attack_success_over_all_images,
)

#                  right, right, right, wrong, wrong, right, right
LABELS = np.array([0, 0, 1, 1, 2, 2, 3])
CLEAN = np.array([0, 0, 1, 0, 3, 2, 3])
PATCHED = np.array([0, 3, 3, 3, 2, 1, 3])


def test_untargeted_counts_changes_of_right_predictions() -> None:
    result = attack_success(CLEAN, PATCHED, LABELS)
    assert result.eligible.tolist() == [True, True, True, False, False, True, True]
    assert result.success.tolist() == [False, True, True, False, False, True, False]
    interval = wilson(3, 5)
    assert result.share == {
        "n": 5,
        "k": 3,
        "value": 0.6,
        "low": interval.low,
        "high": interval.high,
    }


def test_targeted_leaves_out_images_of_the_target_and_other_changes() -> None:
    result = attack_success(CLEAN, PATCHED, LABELS, target=3)
    assert result.eligible.tolist() == [True, True, True, False, False, True, False]
    assert result.success.tolist() == [False, True, True, False, False, False, False]
    assert result.share == share(2, 4)


def test_the_common_set_narrows_what_counts() -> None:
    common = np.array([True, False, True, True, True, True, True])
    result = attack_success(CLEAN, PATCHED, LABELS, also=common)
    assert result.share == share(2, 4)


def test_over_all_images() -> None:
    result = attack_success_over_all_images(CLEAN, PATCHED)
    assert result.share == share(5, 7)
    targeted = attack_success_over_all_images(CLEAN, PATCHED, target=3)
    assert targeted.success.tolist() == [False, True, True, True, False, False, False]
    already = attack_success_over_all_images(np.array([3, 0]), np.array([3, 3]), target=3)
    assert already.success.tolist() == [False, True]


def test_accuracies() -> None:
    assert accuracy(CLEAN, LABELS) == share(5, 7)
    assert accuracy(PATCHED, LABELS) == share(3, 7)


def test_a_share_in_words_and_as_json() -> None:
    found = attack_success(CLEAN, PATCHED, LABELS).share
    assert json.loads(json.dumps(found)) == share(3, 5) == share_of(np.arange(5) < 3)
    assert share_in_words(found, mark="†") == "60.0%† [23.1%, 88.2%] of 5"
    assert share_in_words(found, decimals=2) == "60.00% [23.07%, 88.24%] of 5"
    assert share_in_words(None) == "none"


def test_an_empty_denominator_is_an_error_never_zero() -> None:
    none = np.zeros(7, bool)
    with pytest.raises(NothingToEvaluate):
        attack_success(CLEAN, PATCHED, LABELS, also=none)
    with pytest.raises(NothingToEvaluate):
        attack_success((LABELS + 1) % 4, PATCHED, LABELS)
    with pytest.raises(NothingToEvaluate):
        attack_success(np.full(3, 2), np.full(3, 2), np.full(3, 2), target=2)
    for function in (accuracy, attack_success_over_all_images):
        with pytest.raises(NothingToEvaluate):
            function(LABELS[:0], LABELS[:0])


def test_wrong_vectors_are_refused() -> None:
    for wrong in (LABELS[:6], LABELS.astype(float), LABELS.reshape(1, -1), LABELS.tolist()):
        with pytest.raises(InputError):
            attack_success(CLEAN, wrong, LABELS)
        with pytest.raises(InputError):
            accuracy(CLEAN, wrong)
    with pytest.raises(InputError, match="bool of shape"):
        attack_success(CLEAN, PATCHED, LABELS, also=np.ones(7, int))
