"""Input gradients of networks whose gradient is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from eval.measure.analyses import gradient_alignment, gradient_maps
from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.gradient_alignment import Pair, agreements, edge_iou
from eval.measure.analyses.input_gradients import input_gradients, predicted_logit
from eval.measure.analyses.sample import Sample
from eval.measure.analyses.stored_map import map_codes

Network = Callable[..., Any]
Samples = Callable[..., Sample]
SETTINGS = AnalysisSettings(bit_widths=(32, 4), batch_size=4)


def weights(seed: int, scale: float = 1e-3) -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * scale


def pair(found: gradient_alignment.GradientAlignment, on: str, region: str) -> Pair:
    (one,) = [p for p in found["pairs"] if p["on"] == on and p["region"] == region]
    return one


def value(one: Pair, name: str) -> float:
    measure = one["measures"][name]
    assert measure is not None
    return measure["value"]


def test_the_gradient_of_a_linear_network_is_the_one_by_hand(
    network: Network, sample: Samples
) -> None:
    w = weights(0)
    images = sample()
    found = input_gradients(network({32: w}), images.clean, images.labels, 32, batch_size=4)
    logits = torch.einsum("nchw,kchw->nk", torch.from_numpy(images.clean).float(), w)
    wrong = logits.softmax(dim=1)[:, 1]
    expected = wrong[:, None, None, None] * (w[1] - w[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)
    own = input_gradients(
        network({32: w}), images.clean, images.labels, 32, of=predicted_logit, batch_size=4
    )
    torch.testing.assert_close(own, w[logits.argmax(dim=1)])


def test_identical_networks_agree_in_everything(network: Network, sample: Samples) -> None:
    w = weights(0)
    images = sample(size=8)
    found = gradient_alignment.analyse(network({32: w, 4: w.clone()}), images, SETTINGS)
    assert len(found["pairs"]) == 2 * 3
    for one in found["pairs"]:
        assert one["bit_widths"] == [32, 4]
        assert one["zero_gradients"] == 0
        for name, agreed in (("cosine", 1.0), ("edge_iou", 1.0), ("hog_cosine", 1.0)):
            assert value(one, name) == pytest.approx(agreed, abs=1e-5)
        assert value(one, "mse") == value(one, "relative_mse") == 0.0


def test_regions_are_told_apart(network: Network, sample: Samples) -> None:
    images = sample()
    w = weights(0)
    turned = torch.where(torch.from_numpy(images.region[0]), w, -w)
    found = gradient_alignment.analyse(network({32: w, 4: turned}), images, SETTINGS)
    assert value(pair(found, "clean", "inside"), "cosine") == pytest.approx(1.0, abs=1e-5)
    assert value(pair(found, "patched", "outside"), "cosine") == pytest.approx(-1.0, abs=1e-5)
    # 16 of 256 pixels agree, the others are opposed, and all weigh the same in expectation.
    share = (w[1] - w[0])[:, images.region[0]].square().sum() / (w[1] - w[0]).square().sum()
    assert value(pair(found, "clean", "image"), "cosine") == pytest.approx(
        2 * float(share) - 1, abs=1e-4
    )


def test_mse_is_in_the_units_of_the_gradient(network: Network, sample: Samples) -> None:
    images = sample()
    w, v = weights(0), weights(1)
    a, b = (
        input_gradients(network({32: one}), images.clean, images.labels, 32).double()
        for one in (w, v)
    )
    found = gradient_alignment.analyse(network({32: w, 4: v}), images, SETTINGS)
    one = pair(found, "clean", "image")
    assert value(one, "mse") == pytest.approx(float((a - b).square().mean()), rel=1e-4)
    squares = (a - b).square().flatten(1).sum(1) / (a.square() + b.square()).flatten(1).sum(1)
    assert value(one, "relative_mse") == pytest.approx(float(squares.mean()), rel=1e-4)


def test_a_zero_gradient_has_no_direction(network: Network, sample: Samples) -> None:
    images = sample()
    w = weights(0)
    blind = w * ~torch.from_numpy(images.region[0])
    found = gradient_alignment.analyse(network({32: w, 4: blind}), images, SETTINGS)
    inside = pair(found, "patched", "inside")
    assert inside["zero_gradients"] == len(images)
    assert set(inside["measures"].values()) == {None}
    outside = pair(found, "patched", "outside")
    assert outside["zero_gradients"] == 0
    assert value(outside, "cosine") == pytest.approx(1.0, abs=1e-5)


def test_small_gradients_have_a_direction_too() -> None:
    a = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(2, 8, 8, dtype=torch.bool)
    found = agreements(a * 1e-20, a * 3e-22, everywhere)
    assert found["cosine"].numpy() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert found["edge_iou"].numpy() == pytest.approx([1.0, 1.0])


def test_the_edges_of_moved_squares_overlap_in_part() -> None:
    first, second = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    first[:, 2:8, 2:8] = 1.0
    second[:, 8:14, 8:14] = 1.0
    everywhere = torch.ones(1, 16, 16, dtype=torch.bool)
    assert float(edge_iou(first, first, everywhere)) == 1.0
    assert float(edge_iou(first, second, everywhere)) < 0.2
    flat = torch.zeros(1, 16, 16)
    assert float(edge_iou(first, flat, everywhere)) == 0.0
    assert edge_iou(flat, flat, everywhere).isnan().all()


def test_an_image_without_an_edge_has_no_iou(network: Network, sample: Samples) -> None:
    images = sample()
    w = weights(0)
    # The same weight everywhere in and around the patch: a gradient without an edge there.
    w[:, :, 3:9, 7:13] = torch.tensor([1e-3, -1e-3])[:, None, None, None]
    found = gradient_alignment.analyse(network({32: w, 4: w}), images, SETTINGS)
    inside = pair(found, "clean", "inside")
    assert inside["measures"]["edge_iou"] is None
    assert value(inside, "cosine") == pytest.approx(1.0, abs=1e-5)
    assert value(pair(found, "clean", "image"), "edge_iou") == 1.0


def test_chance_is_below_agreement_and_needs_two_images(network: Network, sample: Samples) -> None:
    # A network with a nonlinearity, so that images differ in their gradients.
    class Squares(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network({32: weights(0), 4: weights(0)})
            self.at = self.inner.at

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner((pixels - 128.0) ** 3 / 128.0**2)
            return found

    found = gradient_alignment.analyse(Squares().eval(), sample(), SETTINGS)
    one = pair(found, "clean", "image")
    chance = one["chance"]["cosine"]
    assert chance is not None
    assert chance["high"] < value(one, "cosine")
    alone = gradient_alignment.analyse(Squares().eval(), sample(count=1), SETTINGS)
    assert set(pair(alone, "clean", "image")["chance"].values()) == {None}


def test_a_gradient_map_is_the_largest_weight_of_the_colours(
    network: Network, sample: Samples
) -> None:
    w = weights(0)
    settings = AnalysisSettings(bit_widths=(32,), shown=2)
    found = gradient_maps.analyse(network({32: w}), sample(), settings)
    assert [one["index"] for one in found["shown"]] == [0, 1]
    expected = (w[1] - w[0]).abs().amax(dim=0)
    codes = np.rint(255.0 * (expected / expected.max()).numpy())
    for one in found["shown"]:
        for stored in (*one["clean"], *one["patched"]):
            assert np.abs(map_codes(stored) - codes).max() <= 1
