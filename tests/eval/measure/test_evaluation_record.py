"""The schema of evaluation records: shares, packed outcomes, common sets, damaged fields."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.outcomes import image_indices, pack_bits, unpack_bits
from deploy.core.records import provenance, write_record
from deploy.core.share import share
from eval.measure.evaluation_record import (
    KIND,
    MOST_CLEAN_LOST,
    EvaluationRecord,
    asr_over_common_set,
    clean_accuracy_lost,
    read_evaluations,
)
from training.record_types import payload_of


def _record(correct: str = "1111", success: str = "0110", name: str = "resnet8") -> dict[str, Any]:
    def bits(text: str) -> str:
        return pack_bits(np.array([flag == "1" for flag in text]))

    model = {
        "network": name,
        "defense": "plain",
        "bit_width": 2,
        "checkpoint_sha256": None,
        "file": "onnxruntime-2.onnx",
        "file_sha256": "0" * 64,
        "file_size_bytes": 123,
        "engine": "onnxruntime",
        "engine_version": "1.31.1",
        "certificate": None,
    }
    patch = {
        "name": "gap-6px",
        "attack": "gap",
        "kind": "universal",
        "shape": "square",
        "size_px": [6, 6],
        "area_px": 36,
        "area_share": 36 / 1024,
        "placement": "random",
        "target": None,
        "steps": 10,
        "restarts": 1,
        "seed": 0,
        "made_on": "train",
        "settings": {},
        "source": {
            "network": "resnet8",
            "defense": "plain",
            "checkpoint_sha256": None,
            "bit_widths": [32],
            "seed": 1,
        },
        "sha256": "1" * 64,
    }
    return {
        "key": "2" * 64,
        "model": model,
        "patch": patch,
        "images": {"name": "digits", "split": "test", "digest": "d" * 64, "n": 9, "classes": ["0"]},
        "clean_accuracy": share(8, 9),
        "clean_accuracy_patched_images": share(4, 4),
        "robust_accuracy": share(2, 4),
        "asr": share(2, 4),
        "asr_common": None,
        "common_set_of": None,
        "asr_all_images": share(2, 4),
        "floor": {"asr": share(0, 4), "seed": 5},
        "drift": None,
        "latency": None,
        "outcomes": {
            "n": 4,
            "first_index": 3,
            "indices": None,
            "clean_correct": bits(correct),
            "patched_correct": bits("1001"),
            "eligible": bits(correct),
            "success": bits(success),
        },
    }


def _checked(**arguments: str) -> EvaluationRecord:
    return payload_of({"kind": KIND, "payload": _record(**arguments)}, EvaluationRecord)


def test_share_has_an_interval_and_no_value_for_nothing() -> None:
    value = share(3, 10)
    assert value["low"] < value["value"] == 0.3 < value["high"]
    with pytest.raises(NothingToEvaluate):
        share(0, 0)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_bits_come_back(n: int) -> None:
    flags = np.random.default_rng(n).random(n) < 0.5
    assert np.array_equal(unpack_bits(pack_bits(flags), n), flags)


def test_bits_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="expected 20 flags in 3 bytes, got 1"):
        unpack_bits("ff", 20)
    with pytest.raises(InputError, match="hexadecimal"):
        unpack_bits("zz", 8)


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    record = _record()
    write_record(tmp_path, KIND, record, provenance(seed=0, config={}))
    assert read_evaluations(tmp_path) == [record]


@pytest.mark.parametrize(
    ("part", "field"),
    [(None, "asr"), ("model", "bit_width"), ("patch", "area_px"), ("outcomes", "success")],
)
def test_a_missing_field_is_named(part: str | None, field: str) -> None:
    record = copy.deepcopy(_record())
    del (record if part is None else record[part])[field]
    with pytest.raises(InputError, match=rf"the key '.*{field}' is missing"):
        payload_of({"kind": KIND, "payload": record}, EvaluationRecord)


def test_common_set_is_what_all_models_have_right() -> None:
    first = _checked(correct="1110", success="1010")
    second = _checked(correct="0111", success="0011", name="resnet20")
    # Images 1 and 2 are common: the first model loses image 2, so does the second.
    assert asr_over_common_set([first, second]) == [share(1, 2), share(1, 2)]
    assert asr_over_common_set([first]) == [share(2, 3)]
    nothing = _checked(correct="0000", success="0000")
    assert asr_over_common_set([first, nothing]) == [None, None]
    assert asr_over_common_set([]) == []


def test_common_set_of_different_images_is_refused() -> None:
    other = _checked()
    other["outcomes"]["first_index"] = 4
    with pytest.raises(InputError, match="same images"):
        asr_over_common_set([_checked(), other])


def test_image_indices_may_have_gaps() -> None:
    outcomes = _checked()["outcomes"]
    assert image_indices(outcomes).tolist() == [3, 4, 5, 6]
    outcomes["indices"] = [2, 9, 11, 12]
    assert image_indices(outcomes).tolist() == [2, 9, 11, 12]


@pytest.mark.parametrize(("right", "comparable"), [(246, True), (245, True), (244, False)])
def test_two_points_less_clean_accuracy_are_comparable_to_the_image(
    right: int, comparable: bool
) -> None:
    plain, defended = (
        cast(EvaluationRecord, {"clean_accuracy": share(k, 1000)}) for k in (265, right)
    )
    assert (clean_accuracy_lost(plain, defended) <= MOST_CLEAN_LOST) is comparable
