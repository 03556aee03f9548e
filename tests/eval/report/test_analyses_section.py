"""The pictures of the analyses: figures as in the records, words for those who do not see them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import InputError, NothingToEvaluate
from eval.measure.analyses.stored_map import store_map
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.report.analyses import analyses_section
from eval.report.analysis_table import HEADER, analysis_rows, analysis_table
from eval.report.misfits import refuses_misfits
from eval.report.names import names_of_models
from eval.report.pictures import coloured
from eval.report.pixel import pixel_curves
from eval.report.transfer import heat_maps, matrices_of

Record = dict[str, Any]


def payload(**own: Any) -> Record:
    return {
        "key": "0" * 64,
        "model": {
            "network": "resnet8",
            "defense": "qadtr",
            "checkpoint_sha256": "c" * 64,
            "bit_widths": [32, 2],
        },
        "images": {
            "name": "cifar10",
            "split": "test",
            "digest": "d" * 64,
            "n": 100,
            "classes": ["cat"],
        },
        "analysed": 50,
        "patch": {
            "name": "lavan <8>",
            "attack": "lavan",
            "kind": "per-image",
            "shape": "square",
            "size_px": [8, 8],
            "area_px": 64,
            "area_share": 0.0625,
            "placement": "centre",
            "target": None,
            "steps": 100,
            "restarts": 1,
            "seed": 0,
            "made_on": "test",
            "settings": {},
            "source": {
                "network": "resnet8",
                "defense": "qat",
                "checkpoint_sha256": "f" * 64,
                "bit_widths": [32],
                "seed": 1,
            },
            "sha256": "a" * 64,
        },
        "settings": {"occluder_px": 8},
        **own,
    }


def record(kind: str, **own: Any) -> Record:
    return {"format_version": 1, "kind": kind, "payload": payload(**own), "provenance": {}}


def mean(value: float) -> Record:
    return {"n": 40, "value": value, "low": value - 0.1, "high": value + 0.1}


def share(k: int, n: int = 40) -> Record:
    return {"n": n, "k": k, "value": k / n, "low": 0.0, "high": 1.0}


LOCATIONS = record(
    "patch-locations",
    tops_px=[0, 8],
    lefts_px=[0, 8],
    bits=[
        {
            "bit_width": 2,
            "n": 40,
            "own_place": share(20),
            "successes": [[4, 30], [8, 0]],
            "floor_successes": [[1, 1], [2, 1]],
            "somewhere": share(35),
            "floor_somewhere": share(3),
            "over_places": mean(0.2625),
        }
    ],
)
OCCLUSION = record(
    "occlusion",
    patch=None,
    grey=128,
    tops_px=[0, 8],
    lefts_px=[0, 8],
    bits=[
        {
            "bit_width": 2,
            "n": 40,
            "drop": [[2.0, -1.0], [0.5, 0.0]],
            "low": [[1.5, -1.5], [0.2, -0.2]],
            "high": [[2.5, -0.5], [0.8, 0.2]],
            "lost": [[10, 1], [2, 0]],
        }
    ],
)


def test_a_place_has_its_rate_shade_and_words() -> None:
    page = analyses_section([LOCATIONS])
    assert "lavan &lt;8&gt;" in page
    assert "color-mix(in srgb, var(--heat) 75%, var(--ground))" in page
    assert "top 0 px, left 8 px: ASR 75.0%" in page
    assert "Largest: top 0 px, left 8 px, ASR 75.0%" in page
    assert "noise at most 5.0% at one place, 7.5% at one or more" in page


def test_a_place_that_helps_is_cold() -> None:
    page = analyses_section([OCCLUSION])
    assert "var(--cool) 50%" in page
    assert "var(--heat) 100%" in page
    assert "drop −1.00 (−1.50–−0.50), 2.5% of 40 images lost" in page


def test_hold_out_figures_are_called_so() -> None:
    images = {**LOCATIONS["payload"]["images"], "split": "holdout"}
    page = analyses_section(
        [record("patch-locations", **{**LOCATIONS["payload"], "images": images})]
    )
    assert "not final" in page
    assert "not final" not in analyses_section([LOCATIONS])


def test_without_analyses_there_is_no_section() -> None:
    assert analyses_section([]) == ""
    with pytest.raises(NothingToEvaluate):
        analysis_table([])


def test_a_record_of_another_version_is_refused() -> None:
    broken = {k: v for k, v in LOCATIONS["payload"].items() if k != "tops_px"}
    with pytest.raises(InputError, match="the key 'tops_px' is missing"):
        analyses_section([{**LOCATIONS, "payload": broken}])


def test_a_map_of_other_places_than_its_own_is_refused() -> None:
    for change in ({"tops_px": [0]}, {"lefts_px": [0, 8, 16]}):
        broken = {**LOCATIONS, "payload": LOCATIONS["payload"] | change}
        with pytest.raises(
            InputError, match=r"does not have its \d×\d positions: the record was edited"
        ):
            analyses_section([broken])


def test_records_that_do_not_fit_together_are_one_error() -> None:
    @refuses_misfits
    def report(value: int) -> float:
        return 1 / value

    assert report(2) == 0.5
    with pytest.raises(
        InputError, match=r"do not fit together \(ZeroDivisionError: .*create it again"
    ):
        report(0)


def test_the_row_has_the_figures_of_all_analyses_of_a_network() -> None:
    pair = {
        "bit_widths": [32, 2],
        "on": "patched",
        "zero_gradients": 0,
        "chance": {},
        "measures": {"cosine": mean(0.3)},
    }
    alignment = record(
        "gradient-alignment",
        pairs=[{**pair, "region": "image"}, {**pair, "region": "inside", "on": "clean"}],
    )
    rows = analysis_rows([LOCATIONS, OCCLUSION, alignment])
    assert len(rows) == 1
    row = dict(zip(HEADER, rows[0], strict=True))
    assert (row["network"], row["bits"]) == ("resnet8 QADT-R", "2")
    assert row["gradient cosine to the widest"] == "0.30 (0.20–0.40)"
    assert row["the same in the patch"] == "–"
    assert row["ASR at its own place"].startswith("50.0%")
    assert row["largest drop of the logit by a grey square"] == "2.00 (1.50–2.50)"


def test_the_newest_record_of_a_network_and_patch_is_shown() -> None:
    (old,) = LOCATIONS["payload"]["bits"]
    newer = record("patch-locations", tops_px=[0, 8], lefts_px=[0, 8], bits=[{**old, "n": 39}])
    page = analyses_section([LOCATIONS, newer])
    assert page.count('class="places"') == 1
    assert "39 images; at its own place" in page
    of_target = copy.deepcopy(newer)
    of_target["payload"]["patch"]["target"] = 0
    assert analyses_section([LOCATIONS, of_target]).count('class="places"') == 2
    assert len(analysis_rows([LOCATIONS, of_target])) == 2


def test_the_palette_rises_from_dark_to_pale() -> None:
    png = coloured(store_map(np.arange(256, dtype=np.float64).reshape(16, 16)))
    with Image.open(io.BytesIO(png)) as image:
        grey = np.asarray(image.convert("L"), dtype=int).ravel()
    assert (np.diff(grey) >= 0).all()
    assert grey[0] < 20
    assert grey[-1] > 230


def pixel(bits: int, robust: int, made_at: int) -> Record:
    return {
        "kind": "pixel-attack",
        "provenance": {},
        "payload": {
            "key": sha256(f"{bits}{made_at}".encode()).hexdigest(),
            "model": {
                "network": "resnet8",
                "defense": "qat",
                "bit_width": bits,
                "checkpoint_sha256": "c" * 64,
                "engine": "torch",
                "file_sha256": None,
            },
            "attack": "pgd",
            "norm": "Linf",
            "epsilon": 8.0,
            "settings": {},
            "library": "art 1",
            "made_at_bit_width": made_at,
            "images": {
                "name": "cifar10",
                "split": "test",
                "digest": "d" * 64,
                "n": 9,
                "classes": ["cat"],
            },
            "attacked": 100,
            "clean_accuracy": share(80, 100),
            "robust_accuracy": share(robust, 100),
            "asr": share(10, 100),
            "largest_change": 8,
            "mean_l2": 1.0,
        },
    }


def test_accuracy_under_pixel_attacks_is_a_chart_over_bit_widths() -> None:
    chart = pixel_curves([pixel(32, 5, 32), pixel(2, 25, 2), pixel(2, 60, 32)])
    assert "PGD, L∞ 8/255, own gradient of each bit-width: 2 bits 25.0%" in chart
    assert "float 5.0%" in chart
    assert "PGD, L∞ 8/255, gradient of float: 2 bits 60.0%" in chart
    assert "without an attack: 2 bits 80.0%" in chart
    assert pixel_curves([pixel(2, 25, 2)]) == ""


def test_patches_tried_on_their_own_network_alone_are_no_transfer(
    evaluation: Callable[..., Record],
) -> None:
    def matrix(*cells: tuple[str, str]) -> str:
        made = [
            evaluation(source_checkpoint=s * 64, checkpoint=t * 64, patch=s * 64)["payload"]
            for s, t in cells
        ]
        for one, (source, _) in zip(made, cells, strict=True):
            one["patch"]["source"]["seed"] = ord(source)
        names = names_of_models(one["model"] for one in made)
        return heat_maps(matrices_of(made, attack_checks_from_records([]), names))

    assert matrix(("a", "a"), ("b", "b")) == ""
    assert "<table" in matrix(("a", "a"), ("b", "b"), ("a", "b"), ("b", "a"))
