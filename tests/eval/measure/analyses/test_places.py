"""Networks that look at one place alone: the maps show that place and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deploy.core.errors import InputError, NothingToEvaluate
from eval.measure.analyses import occlusion, patch_locations
from eval.measure.analyses.analysis_settings import AnalysisSettings, grid
from eval.measure.analyses.sample import Sample

Network = Callable[..., Any]
Samples = Callable[..., Sample]
SETTINGS = AnalysisSettings(bit_widths=(32, 4), stride_px=4, occluder_px=4)
WINDOW = (slice(None), slice(4, 8), slice(8, 12))
"""Of the pixels that count: channel, rows, columns."""


def looking_at_the_window(which_class: int, scale: float = 1.0) -> torch.Tensor:
    weights = torch.zeros(2, 3, 16, 16)
    weights[which_class][WINDOW] = scale
    return weights


def test_a_patch_wins_where_the_network_looks(network: Network, sample: Samples) -> None:
    dark = np.zeros((5, 3, 16, 16), np.uint8)
    images = sample(clean=dark, content=255, place=(4, 8))
    # Class 1 once the window's mean is over half of 255; at 4 bits nothing is ever seen.
    one = looking_at_the_window(1, 1 / 48)
    planted = network({32: one, 4: torch.zeros_like(one)}, bias=(0.6 * 255, 0.0))
    found = patch_locations.analyse(planted, images, SETTINGS)
    assert found["tops_px"] == found["lefts_px"] == [0, 4, 8, 12]
    seeing, blind = found["bits"]
    expected = np.zeros((4, 4), int)
    expected[1, 2] = 5
    assert seeing["successes"] == expected.tolist()
    # The mean of 48 uniform bytes is under 0.6 of 255 here, at every place.
    assert np.array(seeing["floor_successes"]).sum() == 0
    assert (seeing["n"], seeing["own_place"]["k"], seeing["somewhere"]["k"]) == (5, 5, 5)
    assert seeing["floor_somewhere"]["k"] == 0
    assert seeing["over_places"]["value"] == 1 / 16
    assert np.array(blind["successes"]).sum() == 0
    assert blind["somewhere"]["value"] == blind["over_places"]["value"] == 0.0


def test_only_images_that_are_right_count(network: Network, sample: Samples) -> None:
    labels = np.array([0, 1, 0, 1, 0])
    images = sample(clean=np.zeros((5, 3, 16, 16), np.uint8), labels=labels)
    planted = network({32: looking_at_the_window(1), 4: looking_at_the_window(1)}, bias=(1.0, 0.0))
    found = patch_locations.analyse(planted, images, SETTINGS)
    assert [at["n"] for at in found["bits"]] == [3, 3]
    wrong = sample(clean=np.zeros((5, 3, 16, 16), np.uint8), labels=np.ones(5, np.int64))
    for analysis in (patch_locations, occlusion):
        with pytest.raises(NothingToEvaluate):
            analysis.analyse(planted, wrong, SETTINGS)


def test_the_logit_drops_by_what_the_square_hides(network: Network, sample: Samples) -> None:
    bright = np.full((4, 3, 16, 16), 228, np.uint8)
    planted = network({32: looking_at_the_window(0), 4: looking_at_the_window(0, 0.5)})
    found = occlusion.analyse(planted, sample(clean=bright), SETTINGS)
    expected = np.zeros((4, 4))
    expected[1, 2] = 48 * (228 - occlusion.GREY)
    for at, scale in zip(found["bits"], (1.0, 0.5), strict=True):
        assert at["n"] == 4
        np.testing.assert_allclose(at["drop"], expected * scale, rtol=1e-5)
        # All images are the same: the interval is the value.
        assert at["low"] == at["drop"] == at["high"]
        assert np.array(at["lost"]).sum() == 0


def test_a_square_that_hides_what_speaks_against_the_class_helps(
    network: Network, sample: Samples
) -> None:
    bright = np.full((4, 3, 16, 16), 228, np.uint8)
    planted = network({32: looking_at_the_window(0, -1.0)}, bias=(1e5, 0.0))
    settings = AnalysisSettings(bit_widths=(32,), occluder_px=4)
    (at,) = occlusion.analyse(planted, sample(clean=bright), settings)["bits"]
    assert at["drop"][1][2] == pytest.approx(-4800.0)


def test_the_grid_ends_at_the_edge() -> None:
    assert grid(32, 8, 4) == [0, 4, 8, 12, 16, 20, 24]
    assert grid(15, 8, 4) == [0, 4, 7]
    assert grid(8, 8, 3) == [0]
    with pytest.raises(InputError, match="does not fit"):
        grid(7, 8, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bit_widths": ()}, "bit_widths must be a list of at least 1"),
        ({"bit_widths": (4, 4)}, "bit_widths: expected different numbers"),
        ({"bit_widths": (4,), "stride_px": 0}, "stride_px must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AnalysisSettings(**values)
