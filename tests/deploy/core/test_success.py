from __future__ import annotations

import json

import numpy as np
import pytest

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.statistics import wilson
from deploy.core.success import (
    attack_success,
    attack_success_over_all_images,
    clean_accuracy,
    robust_accuracy,
)

#                  right, right, right, wrong, wrong, right, right
LABELS = np.array([0, 0, 1, 1, 2, 2, 3])
CLEAN = np.array([0, 0, 1, 0, 3, 2, 3])
PATCHED = np.array([0, 3, 3, 3, 2, 1, 3])


def test_untargeted_counts_changes_of_right_predictions() -> None:
    result = attack_success(CLEAN, PATCHED, LABELS)
    assert result.eligible.tolist() == [True, True, True, False, False, True, True]
    assert result.success.tolist() == [False, True, True, False, False, True, False]
    assert (result.n, result.successes, result.asr) == (5, 3, 0.6)
    assert result.interval == wilson(3, 5)


def test_targeted_leaves_out_images_of_the_target_and_other_changes() -> None:
    result = attack_success(CLEAN, PATCHED, LABELS, target=3)
    assert result.eligible.tolist() == [True, True, True, False, False, True, False]
    assert result.success.tolist() == [False, True, True, False, False, False, False]
    assert (result.n, result.successes, result.asr) == (4, 2, 0.5)


def test_the_common_set_narrows_what_counts() -> None:
    common = np.array([True, False, True, True, True, True, True])
    result = attack_success(CLEAN, PATCHED, LABELS, also=common)
    assert (result.n, result.successes) == (4, 2)


def test_over_all_images() -> None:
    result = attack_success_over_all_images(CLEAN, PATCHED)
    assert (result.n, result.successes) == (7, 5)
    targeted = attack_success_over_all_images(CLEAN, PATCHED, target=3)
    assert targeted.success.tolist() == [False, True, True, True, False, False, False]
    already = attack_success_over_all_images(np.array([3, 0]), np.array([3, 3]), target=3)
    assert already.success.tolist() == [False, True]


def test_accuracies() -> None:
    clean, robust = clean_accuracy(CLEAN, LABELS), robust_accuracy(PATCHED, LABELS)
    assert (clean.n, clean.correct, clean.accuracy) == (7, 5, 5 / 7)
    assert (robust.correct, robust.interval) == (3, wilson(3, 7))


def test_records_are_json() -> None:
    record = json.loads(json.dumps(attack_success(CLEAN, PATCHED, LABELS).as_record()))
    assert (record["asr"], record["n"], record["successes"]) == (0.6, 5, 3)
    assert record["interval"] == [wilson(3, 5).low, wilson(3, 5).high]
    assert json.loads(json.dumps(clean_accuracy(CLEAN, LABELS).as_record()))["correct"] == 5


def test_an_empty_denominator_is_an_error_never_zero() -> None:
    none = np.zeros(7, bool)
    with pytest.raises(NothingToEvaluate):
        attack_success(CLEAN, PATCHED, LABELS, also=none)
    with pytest.raises(NothingToEvaluate):
        attack_success((LABELS + 1) % 4, PATCHED, LABELS)
    with pytest.raises(NothingToEvaluate):
        attack_success(np.full(3, 2), np.full(3, 2), np.full(3, 2), target=2)
    for function in (clean_accuracy, robust_accuracy, attack_success_over_all_images):
        with pytest.raises(NothingToEvaluate):
            function(LABELS[:0], LABELS[:0])


def test_wrong_vectors_are_refused() -> None:
    for wrong in (LABELS[:6], LABELS.astype(float), LABELS.reshape(1, -1), LABELS.tolist()):
        with pytest.raises(InputError):
            attack_success(CLEAN, wrong, LABELS)
        with pytest.raises(InputError):
            clean_accuracy(CLEAN, wrong)
    with pytest.raises(InputError, match="bool of shape"):
        attack_success(CLEAN, PATCHED, LABELS, also=np.ones(7, int))
