"""TriQDef: the measures tell likeness, the penalty has the right gradient and lowers agreement."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deploy.core.errors import InputError
from tests.training.test_defenses import batch, facts, small_network
from tests.training.test_frozen import snapshot, started
from training.agreement import (
    direction,
    edge_agreement,
    grey,
    orientation_agreement,
    sobel,
    soft_orientations,
)
from training.defenses import build_defense
from training.defenses.partner import drawn_partner, gradient_agreement
from training.defenses.triqdef import Triqdef, alignment, likeness
from training.frozen import frozen_statistics, pixel_gradient
from training.gradients import FakeQuantize

MEASURES: list[tuple[Callable[..., Tensor], float]] = [
    (direction, 0.4),
    (edge_agreement, 0.65),
    (orientation_agreement, 0.92),
]
"""Each measure and what two maps of independent noise stay below."""


@pytest.mark.parametrize(("measure", "unrelated"), MEASURES)
def test_equal_maps_agree_whatever_their_magnitude_and_others_less(
    measure: Callable[..., Tensor], unrelated: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 16, 16, generator=generator)
    torch.testing.assert_close(measure(a, a), torch.ones(6), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(measure(a, 1e-3 * a), torch.ones(6), rtol=0.0, atol=1e-3)
    assert bool((measure(a, b) < unrelated).all())
    # What lies outside the region does not count.
    region = torch.zeros(6, 16, 16, dtype=torch.bool)
    region[:, 4:12, 4:12] = True
    inside = measure(torch.where(region, a, 0.0), torch.where(region, a, 0.0), region)
    torch.testing.assert_close(inside, torch.ones(6), rtol=0.0, atol=1e-4)


def test_orientations_tell_bars_apart() -> None:
    bars = torch.zeros(16, 16)
    bars[:, ::4] = 1.0
    upright, lying = bars[None], bars.T.contiguous()[None]
    assert float(orientation_agreement(upright, lying)) < 0.3
    assert float(orientation_agreement(upright, -upright)) == pytest.approx(1.0, abs=1e-4)
    assert soft_orientations(upright).square().sum().item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("pass_clipped", [False, True])
def test_the_quantizers_backward_can_be_differentiated(pass_clipped: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, generator=generator, dtype=torch.float64)
    w = torch.rand(40, generator=generator, dtype=torch.float64)
    v = torch.randn(40, generator=generator, dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=not pass_clipped)

    def along_v(weights: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        y = FakeQuantize.apply(leaf, scale, -3, 3, pass_clipped)
        (gradient,) = torch.autograd.grad((weights * y * y).sum(), leaf, create_graph=True)
        return (gradient * v).sum()

    leaf = w.clone().requires_grad_()
    (exact,) = torch.autograd.grad(along_v(leaf), leaf)
    step = 1e-6
    for i in range(0, 40, 7):
        moved = torch.zeros_like(w)
        moved[i] = step
        difference = (along_v(w + moved) - along_v(w - moved)).detach() / (2.0 * step)
        # Central differences of a function that is linear in w: rounding alone.
        assert float(exact[i]) == pytest.approx(float(difference), abs=1e-7)


@pytest.mark.parametrize(
    ("bits", "name"), [(32, "layers.stem.conv.weight"), (4, "layers.linear.bias")]
)
def test_the_gradient_of_an_agreement_is_that_of_finite_differences(bits: int, name: str) -> None:
    # At 4 bits only what lies behind the last rounding is smooth; in float, every weight is.
    images = batch(4)
    network = started().double()
    network.set_bit_width(bits)
    generator = torch.Generator().manual_seed(2)
    other = torch.randn(4, 16, 16, generator=generator, dtype=torch.float64)
    weight = dict(network.named_parameters())[name]
    along = torch.randn(weight.shape, generator=generator, dtype=torch.float64)

    def penalty() -> Tensor:
        with frozen_statistics(network):
            gradient = pixel_gradient(
                network, images.pixels.double(), images.labels, differentiable=True
            )
        own = grey(gradient)
        return (
            direction(own, other) + edge_agreement(own, other) + orientation_agreement(own, other)
        ).sum()

    (exact,) = torch.autograd.grad(penalty(), weight)
    start, step = weight.detach().clone(), 1e-6
    values = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            weight.copy_(start + sign * step * along)
        values.append(float(penalty().detach()))
    difference = (values[0] - values[1]) / (2.0 * step)
    # A ReLU that switches within the step costs a little.
    assert float((exact * along).sum()) == pytest.approx(difference, rel=2e-3, abs=1e-6)
    assert abs(difference) > 1e-5


def test_the_penalty_moves_weights_that_lower_it_and_nothing_else() -> None:
    network, images = started(), batch()
    network.set_bit_width(4)
    before = snapshot(network)

    def penalty(*partners: int) -> Tensor:
        return alignment(
            network, images.pixels, images.labels, partners, feature_weight=0.8, gradient_weight=0.5
        )

    first = penalty(8)
    assert 0.0 < float(first.detach()) <= 1.5 * 1.3
    # A sum over the pairs.
    torch.testing.assert_close(penalty(8, 32), first + penalty(32))
    assert network.bit_width == 4
    assert all(torch.equal(before[n], t) for n, t in snapshot(network).items())
    first.backward()
    moved = {n: p for n, p in network.named_parameters() if p.grad is not None}
    assert all(bool(torch.isfinite(p.grad).all()) for p in moved.values() if p.grad is not None)
    assert "layers.stem.conv.weight" in moved
    assert not any("scale_" in name for name in moved)


def test_the_penalty_is_of_the_function_that_the_loss_trains() -> None:
    # A penalty on the network with its running statistics is lowered by ruining that network, which
    # is the one that is deployed, and no loss holds against it.
    network, images = started(), batch()
    network.set_bit_width(4)

    def penalty() -> Tensor:
        return alignment(
            network, images.pixels, images.labels, (8,), feature_weight=0.8, gradient_weight=0.5
        )

    before = penalty().detach()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer += 3.0
    assert torch.equal(penalty().detach(), before)


def test_girs_penalty_is_of_the_function_that_the_loss_trains() -> None:
    network, images = started(), batch()
    network.set_bit_width(4)
    region = torch.ones(len(images.labels), 16, 16, dtype=torch.bool)

    def penalty() -> Tensor:
        return gradient_agreement(network, images.pixels, images.labels, 8, region)

    before = penalty()
    before.backward()
    moved = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max()}
    assert any(".norms.4.bias" in name for name in moved)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer += 3.0
    assert torch.equal(penalty().detach(), before.detach())


def test_a_batch_without_a_patched_image_has_no_penalty() -> None:
    network, images = started(), batch()
    network.set_bit_width(4)
    defense = build_defense({"name": "triqdef", "size_px": 4, "share": 0.01}, facts())
    pixels = defense.prepare(60, images, network)
    assert torch.equal(pixels, images.pixels)
    assert defense.extra_loss(60, images, pixels, network) is None


def test_partners_are_bit_widths_that_have_been_trained_at() -> None:
    network = small_network().train()
    for bits in (32, 8):
        network.set_bit_width(bits)
        network(batch().pixels)
    assert {drawn_partner(network, 1, step) for step in range(20)} == {32}
    network.set_bit_width(32)
    assert {drawn_partner(network, 1, step) for step in range(20)} == {8}


def test_likeness_is_the_published_one() -> None:
    maps = torch.zeros(1, 20, 20)
    maps[:, 5:15, 5:15] = 1.0
    assert float(likeness(maps, maps)) == pytest.approx(1.5, abs=1e-3)
    # Edges by hand: where the magnitude is above its 85% quantile, at a root mean square of 1.
    x, y = sobel(maps / maps.square().mean().sqrt())
    magnitude = (x * x + y * y).sqrt()
    edges = torch.sigmoid(100.0 * (magnitude - magnitude.flatten().quantile(0.85)))
    other = maps.roll(3, dims=2)
    by_hand = 2.0 * (edges * edges.roll(3, dims=2)).sum() / (2.0 * edges.square().sum())
    dice = float(likeness(maps, other) - orientation_agreement(maps, other))
    assert dice == pytest.approx(0.5 * float(by_hand), abs=1e-3)
    assert dice < 0.4


def test_the_curriculum_begins_with_the_two_widest() -> None:
    table = {"name": "triqdef", "size_px": 4, "inner_steps": 1, "wide_until": 0.3}
    own = facts(bit_widths=(32, 8, 4))
    defense, network, images = build_defense(table, own), started(), batch()
    assert isinstance(defense, Triqdef)
    assert [defense.bit_width(step) for step in range(4)] == [32, 8, 32, 8]
    late = [defense.bit_width(step) for step in range(own.steps)]
    first = next(step for step, bits in enumerate(late) if bits == 4)
    assert 0.3 * own.steps <= first <= 0.3 * own.steps + 2
    assert {late.count(bits) for bits in (32, 8)} != {late.count(4)}
    network.set_bit_width(8)
    pixels = defense.prepare(0, images, network)
    assert int((pixels != images.pixels).flatten(1).any(dim=1).sum()) == 8
    # Early, 8 bits are held against float alone; later against 4 bits too.
    early, whole = (defense.extra_loss(step, images, pixels, network) for step in (1, 60))
    assert early is not None and whole is not None
    assert 0.0 < float(early.detach()) < float(whole.detach())
    one = build_defense(table | {"partners": 1}, own)
    one.prepare(60, images, network)
    fewer = one.extra_loss(60, images, pixels, network)
    assert fewer is not None and float(fewer.detach()) < float(whole.detach())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"wide_until": 1.5}, "at most 1"),
        ({"wide_until": 1.0}, "under 1, because otherwise the narrow bit-widths are not trained"),
        ({"feature_weight": -1.0}, "at least 0"),
        ({"penalty_images": 0}, "at least 1"),
        ({"share": 2.0}, "at most 1"),
        ({"partners": -1}, "at least 0"),
    ],
)
def test_wrong_settings(table: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_defense({"name": "triqdef", **table}, facts())


def test_one_bit_width_has_no_partner() -> None:
    with pytest.raises(InputError, match="at least two"):
        build_defense({"name": "triqdef"}, facts(bit_widths=(8,)))
