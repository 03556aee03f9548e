"""What a certificate leaves to an attacker."""

from __future__ import annotations

import pytest

from deploy.core.double_masking import asr_at_most
from deploy.core.share import share
from eval.measure.certification_record import CertificationRecord
from eval.report.certification import certification_table


def record(right: int, certified: int, engine: str = "onnxruntime-cpu") -> CertificationRecord:
    return {
        "key": "0" * 64,
        "model": {
            "network": "resnet8",
            "defense": "qadtr",
            "engine": engine,
            "engine_version": "1",
            "bit_width": 4,
            "checkpoint_sha256": "0" * 64,
            "file_sha256": "0" * 64,
            "file_size_bytes": 1,
            "file": "model.onnx",
            "certificate": None,
        },
        "images": {
            "name": "digits",
            "split": "test",
            "n": 40,
            "digest": "0" * 64,
            "classes": ["0"],
        },
        "patch_px": 2,
        "mask_px": [4, 4],
        "masks": 4,
        "clean": share(35, 40),
        "masked": share(right, 40),
        "certified": share(certified, 40),
        "mean_passes": 5.0,
        "ms_per_pass": 0.1,
    }


@pytest.mark.parametrize(("right", "certified", "wins"), [(30, 12, 18), (30, 30, 0), (30, 0, 30)])
def test_an_attack_may_win_where_masked_inference_is_right_without_a_certificate(
    right: int, certified: int, wins: int
) -> None:
    bound = asr_at_most(share(right, 40), share(certified, 40))
    assert bound is not None and (bound["k"], bound["n"]) == (wins, right)


def test_the_worst_patch_that_was_tried_stands_before_the_bound() -> None:
    tried, untried = record(30, 12), record(30, 12)
    untried["model"] = {**untried["model"], "bit_width": 2}
    tried["attacks"] = [
        {"patch": {"name": name}, "asr": share(won, 30)}  # type: ignore[typeddict-item]
        for name, won in (("weak", 3), ("strong", 9))
    ]
    table = certification_table([tried, untried])
    at = list(table.columns).index("ASR tried (95%)")
    assert table.columns[at + 1] == "ASR at most (95%)"
    assert [row[at] for row in table.rows] == ["30.0% (16.7–47.9), strong", ""]
    assert "ASR tried" not in certification_table([untried]).text()


def test_where_masked_inference_is_never_right_there_is_nothing_to_win() -> None:
    assert asr_at_most(share(0, 40), share(0, 40)) is None
    assert "–" in certification_table([record(0, 0)]).text()
    assert "60.0% (42.3–75.4)" in certification_table([record(30, 12)]).text()
