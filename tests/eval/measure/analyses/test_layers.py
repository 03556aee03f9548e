"""Visibility and features in networks as they are trained here, with changes that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eval.measure.analyses import feature_maps, patch_visibility
from eval.measure.analyses.activations import activations
from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.sample import Sample
from eval.measure.analyses.seen_region import seen_regions, under_region
from eval.measure.analyses.stored_map import map_codes
from tests.training.planned import convolutions, last
from tests.training.quantize.networks import planned
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

BITS = (32, 4)
SETTINGS = AnalysisSettings(bit_widths=BITS, batch_size=4, shown=1)
Samples = Callable[..., Sample]


def warmed(name: str, bit_widths: tuple[int, ...] = BITS) -> Network:
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec(name=name, classes=2, input_size=32, bit_widths=bit_widths)
    network = build_network(spec, generator)
    with torch.no_grad():
        for bits in bit_widths:
            network.set_bit_width(bits)
            network(torch.randint(0, 256, (16, 3, 32, 32), generator=generator).float())
    return network.for_evaluation()


@pytest.fixture(scope="module")
def resnet() -> Network:
    return warmed("resnet8")


@pytest.mark.parametrize("name", ["resnet8", "vgg11", "mobilenetv2"])
def test_only_what_sees_the_patch_changes(name: str, sample: Samples) -> None:
    network = warmed(name, (32,))
    images = sample(side=32, place=(5, 9), count=8)
    names = list(convolutions(network))
    clean = activations(network, images.clean, 32, names)
    patched = activations(network, images.patched, 32, names)
    seen = seen_regions(network.plan, torch.from_numpy(images.region))
    assert list(seen) and set(seen) == set(names)
    for layer in names:
        # float32 sums of other positions do not move: their inputs are the same.
        changed = (clean[layer] != patched[layer]).any(dim=1)
        assert not (changed & ~seen[layer]).any(), layer
    first = names[0]
    assert torch.equal((clean[first] != patched[first]).any(dim=1).any(dim=0), seen[first][0])


class Mixed(nn.Module):
    """Positions that move: a transposed map, a shuffle, a flattened map; a gate; joined maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.turned = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, padding=1)
        self.gate, self.joined = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 3)
        self.rows, self.linear = nn.Conv2d(2, 2, 1), nn.Linear(13 * 13 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.turned(x.transpose(2, 3)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.relu(self.joined(torch.cat([x, x], 1)))
        x = self.rows(x.reshape(x.shape[0], 2, 26, 13))
        return self.linear(x.flatten(1))


def test_only_what_sees_the_patch_changes_in_any_network(sample: Samples) -> None:
    images = sample(side=32, place=(5, 9), count=8)
    torch.manual_seed(0)
    network = planned(Mixed(), images.clean, 32)
    names = list(convolutions(network))
    clean = activations(network, images.clean, 32, names)
    patched = activations(network, images.patched, 32, names)
    seen = seen_regions(network.plan, torch.from_numpy(images.region))
    assert {name: tuple(one.shape[1:]) for name, one in seen.items()} == {
        name: tuple(one.shape[2:]) for name, one in clean.items()
    }
    for layer in names:
        changed = (clean[layer] != patched[layer]).any(dim=1)
        assert not (changed & ~seen[layer]).any(), layer
    assert not seen["stem"].all()


def test_the_first_layer_sees_one_pixel_around_the_patch(resnet: Network, sample: Samples) -> None:
    images = sample(side=32, place=(5, 9), count=2)
    seen = seen_regions(resnet.plan, torch.from_numpy(images.region))["stem"][0]
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[4:10, 8:14] = True
    assert torch.equal(seen, expected)


def test_what_lies_under_a_patch() -> None:
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, 4:8, 8:12] = True
    assert under_region(region, (16, 16)).equal(region)
    assert under_region(region, (8, 8))[0].nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    assert under_region(region, (4, 4))[0].nonzero().tolist() == [[1, 2]]
    # No centre of four cells lies under it: the cell that holds it is taken.
    assert under_region(region, (2, 2))[0].nonzero().tolist() == [[0, 1]]


def unchanged(images: Sample) -> Sample:
    return replace(images, patched=images.clean.copy())


def test_a_patch_that_changes_nothing_is_not_seen(resnet: Network, sample: Samples) -> None:
    images = unchanged(sample(side=32, count=6))
    for at in patch_visibility.analyse(resnet, images, SETTINGS)["bits"]:
        assert at["saliency"]["clean"] == at["saliency"]["patched"]
        for layer in at["layers"]:
            assert layer["change"] is not None
            assert layer["change"]["value"] == 0.0
            assert layer["seen"]["clean"] == layer["seen"]["patched"]
            assert layer["under"]["clean"] == layer["under"]["patched"]


def test_shares_are_those_of_the_energy(resnet: Network, sample: Samples) -> None:
    images = sample(side=32, place=(5, 9), count=6)
    found = patch_visibility.analyse(resnet, images, SETTINGS)
    assert [at["bit_width"] for at in found["bits"]] == [32, 4]
    for at in found["bits"]:
        stem = at["layers"][0]
        assert (stem["layer"], stem["size_px"]) == ("stem", [32, 32])
        assert stem["seen"]["area"]["value"] == pytest.approx(36 / 1024, rel=1e-5)
        assert stem["under"]["area"]["value"] == pytest.approx(16 / 1024, rel=1e-5)
        outputs = activations(resnet, images.patched, at["bit_width"], ["stem"])["stem"]
        energy = outputs.double().square().sum(dim=1)
        share = energy[:, 5:9, 9:13].sum(dim=(1, 2)) / energy.sum(dim=(1, 2))
        assert stem["under"]["patched"] is not None
        assert stem["under"]["patched"]["value"] == pytest.approx(float(share.mean()), rel=1e-5)
        assert at["saliency"]["area"]["value"] == pytest.approx(16 / 1024, rel=1e-5)


def test_saliency_is_where_the_gradient_is(sample: Samples) -> None:
    # A network whose head reads nothing: no gradient, so no share.
    network = warmed("resnet8", (32,))
    with torch.no_grad():
        last(network).linear.weight.zero_()
    settings = AnalysisSettings(bit_widths=(32,))
    (at,) = patch_visibility.analyse(network, sample(side=32, count=2), settings)["bits"]
    assert at["saliency"]["patched"] is None


def test_features_of_the_same_image_are_the_same(resnet: Network, sample: Samples) -> None:
    found = feature_maps.analyse(resnet, unchanged(sample(side=32, count=6)), SETTINGS)
    names = ["stem", "block0.first", "block0.second"]
    assert [(u["layer"], u["bit_width"]) for u in found["units"]] == [
        (name, bits) for name in names for bits in BITS
    ]
    for unit in found["units"]:
        assert unit["change"] is not None
        assert unit["change"]["value"] == 0.0
        assert unit["clean_to_widest"] == unit["patched_to_widest"]
        if unit["bit_width"] == 32:
            assert unit["clean_to_widest"] is not None
            assert unit["clean_to_widest"]["value"] == pytest.approx(1.0, abs=1e-6)
    for shown in found["shown"]:
        for maps in (shown["mean"], shown["most_changed"]):
            assert maps["clean"] == maps["patched"]


def test_the_stored_channel_is_the_one_that_changes_most(resnet: Network, sample: Samples) -> None:
    images = sample(side=32, place=(5, 9), count=3)
    found = feature_maps.analyse(resnet, images, SETTINGS)
    clean = activations(resnet, images.clean[:1], 32, ["stem"])["stem"][0]
    patched = activations(resnet, images.patched[:1], 32, ["stem"])["stem"][0]
    changes = (patched - clean).square().sum(dim=(1, 2))
    shown = found["shown"][0]
    assert shown["channel"] == int(changes.argmax())
    stored = shown["most_changed"]["patched"][0]
    back = stored["low"] + map_codes(stored) / 255 * (stored["high"] - stored["low"])
    step = (stored["high"] - stored["low"]) / 255
    expected = patched[shown["channel"]].numpy()
    assert np.abs(back - expected).max() <= 0.51 * step + 1e-5
    length = clean.flatten().norm()
    change = (patched - clean).flatten().norm() / length
    unit = feature_maps.analyse(resnet, sample(side=32, place=(5, 9), count=3), SETTINGS)["units"]
    assert unit[0]["change"] is not None
    assert unit[0]["change"]["low"] <= float(change) <= unit[0]["change"]["high"]
