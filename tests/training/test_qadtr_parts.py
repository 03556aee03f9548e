"""QADT-R's later parts: targeted, turned, round and restarted pool patches; the GIR penalty."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.training.test_defenses import BIT_WIDTHS, batch, facts
from tests.training.test_frozen import snapshot, started
from training.defenses import build_defense
from training.defenses.partner import gradient_agreement, patched_region
from training.defenses.showing import Pose, drawn, turned
from training.defenses.universal_pool import Kind, UniversalPool
from training.frozen import frozen_statistics, image_losses, pixel_gradient


def pool(**changes: object) -> UniversalPool:
    settings: dict[str, object] = {
        "bit_widths": BIT_WIDTHS,
        "sizes_px": (4,),
        "per_bit_width": 2,
        "step_size": 10.0,
        "generator": torch.Generator().manual_seed(1),
        "device": torch.device("cpu"),
    }
    return UniversalPool(**{**settings, **changes})  # type: ignore[arg-type]


def generator(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_targeted_patch_steps_towards_its_class_and_not_with_the_training_gradient() -> None:
    own, network, images = pool(targeted=1, classes=10), started(), batch()
    network.set_bit_width(4)
    assert (own.targets >= 0).tolist() == [True, False] * 4
    asked: list[Tensor] = []

    def improve(pixels: Tensor, targets: Tensor) -> Tensor:
        asked.append(targets)
        with frozen_statistics(network):
            return pixel_gradient(network, pixels, targets)

    rows = torch.arange(16)
    kind: Kind = ("square", 4, "random")
    before = own.patches[kind].clone()
    own.patch(images.pixels, rows, 4, generator(), labels=images.labels, improve=improve)
    moved = (own.patches[kind] != before).flatten(1).any(dim=1)
    assert bool(moved.any())
    assert not bool(moved[(own.home != 4) | (own.targets < 0)].any())
    assert set(asked[0].tolist()) <= set(own.targets[own.home == 4].tolist())

    after = own.patches[kind].clone()
    own.learn(torch.ones_like(images.pixels), images.labels, images.labels, generator())
    moved = (own.patches[kind] != after).flatten(1).any(dim=1)
    assert not bool(moved[own.targets >= 0].any())
    # Every prediction was right, so no patch of either kind has won.
    assert float(own.success[kind].max()) <= 0.5


def test_turning_is_undone_by_turning_back() -> None:
    patches, turns = torch.rand(8, 3, 5, 5, generator=generator()), torch.arange(8) % 4
    there = turned(patches, turns)
    assert torch.equal(turned(there, -turns), patches)
    assert torch.equal(there[1], torch.rot90(patches[1], 1, (1, 2)))


def test_a_turned_patch_learns_in_its_own_frame() -> None:
    own, images = pool(turn=True, bit_widths=(4,), per_bit_width=1), batch()
    kind: Kind = ("square", 4, "random")
    own.patches[kind] = torch.full((1, 3, 4, 4), 100.0)
    own.patches[kind][:, :, 0, 0] = 200.0
    patched = own.patch(images.pixels, torch.arange(16), 4, generator())
    # The loss rises where the marked corner lies in the image: that corner alone must grow.
    own.learn((patched == 200.0).float(), images.labels, images.labels, generator())
    grown = own.patches[kind] > 100.0
    assert bool(grown[:, :, 0, 0].all())
    assert int(grown.sum()) == 3


def test_a_round_patch_leaves_the_corners_of_its_box() -> None:
    own, images = pool(shapes=("circle",)), batch()
    patched = own.patch(images.pixels, torch.arange(16), 4, generator())
    covered = (patched != images.pixels).any(dim=1).flatten(1).sum(dim=1)
    assert int(covered.max()) <= 12
    assert int(covered.min()) >= 10


def test_a_law_of_corners_shows_patches_in_corners_alone() -> None:
    own, images = pool(placements=("corners",)), batch()
    patched = own.patch(images.pixels, torch.arange(16), 4, generator())
    changed = (patched != images.pixels).any(dim=1)
    corners = torch.zeros(16, 16, dtype=torch.bool)
    corners[:4] = corners[-4:] = True
    corners[4:-4] = False
    corners[:, 4:-4] = False
    assert not bool((changed & ~corners).any())
    # More than one of the four is used.
    used = {tuple(c.nonzero()[0].tolist()) for c in changed if bool(c.any())}
    assert len(used) > 1


def test_a_posed_patch_gets_the_gradient_that_autograd_gives_its_paste() -> None:
    images = batch()
    showing = drawn(
        "posed", 16, (16, 16), torch.ones(5, 5, dtype=torch.bool), generator(), images.pixels.device
    )
    assert showing.scales is not None
    assert 0.75 <= float(showing.scales.min()) < float(showing.scales.max()) <= 1.25
    patches = (torch.rand(16, 3, 5, 5, generator=generator()) * 255.0).requires_grad_()
    weights = torch.randn(16, 3, 16, 16, generator=generator())
    (showing.paste(images.pixels, patches) * weights).sum().backward()
    assert patches.grad is not None
    assert torch.allclose(showing.gradient(weights), patches.grad, atol=1e-5)
    some = torch.arange(16) % 3 == 0
    assert torch.allclose(showing.of(some).gradient(weights[some]), patches.grad[some], atol=1e-5)


def test_a_posed_patch_learns_towards_the_pixels_that_show_it() -> None:
    pose = Pose(scales=(1.5, 1.5), degrees=0.0)
    own, images = pool(placements=("posed",), pose=pose, bit_widths=(4,), per_bit_width=1), batch()
    kind: Kind = ("square", 4, "posed")
    own.patches[kind] = torch.full((1, 3, 4, 4), 100.0)
    patched = own.patch(images.pixels, torch.arange(16), 4, generator())
    shown = (patched != images.pixels).any(dim=1)
    # Half as large again: 6 pixels a side, fewer where the image ends.
    assert 16 < int(shown.flatten(1).sum(dim=1).max()) <= 36
    own.learn(
        shown[:, None].float().expand(-1, 3, -1, -1), images.labels, images.labels, generator()
    )
    assert torch.equal(own.patches[kind], torch.full((1, 3, 4, 4), 110.0))


def test_the_pool_has_patches_for_each_law_and_comes_back_from_its_state() -> None:
    laws = {"placements": ("random", "corners", "posed"), "shapes": ("square", "circle")}
    own, images = pool(**laws), batch()
    assert len(own.kinds) == 6
    for seed in range(12):
        own.patch(images.pixels, torch.arange(16), 4, generator(seed))
        own.learn(torch.ones_like(images.pixels), images.labels, images.labels, generator(seed))
    other = pool(**laws, generator=generator(9))
    other.load_state(own.state())
    for kind in own.kinds:
        assert torch.equal(other.patches[kind], own.patches[kind])
        assert torch.equal(other.success[kind], own.success[kind])


def test_the_pool_s_files_are_patches_of_one_kind_each_with_targets_where_it_has_any() -> None:
    own = pool(targeted=1, classes=10, placements=("random", "corners"))
    files = own.files()
    assert set(files) == {
        f"universal-square-4px-{law}{aimed}"
        for law in ("random", "corners")
        for aimed in ("", "-targeted")
    }
    untargeted = files["universal-square-4px-random"]
    assert untargeted["patches"].dtype == np.uint8
    assert untargeted["patches"].shape == (4, 3, 4, 4)
    assert "targets" not in untargeted
    assert files["universal-square-4px-random-targeted"]["targets"].shape == (4,)
    assert untargeted["mask"].shape == (4, 4)


def test_a_patch_that_never_wins_starts_again_and_others_stay() -> None:
    own, images = pool(restart_after=3, restart_below=0.45), batch()
    rows = torch.arange(16)
    kind: Kind = ("square", 4, "random")
    own.success[kind][0] = 1.0
    start = own.patches[kind].clone()
    for seed in range(8):
        own.patch(images.pixels, rows, 2, generator(seed))
        own.learn(torch.zeros_like(images.pixels), images.labels, images.labels, generator(seed))
    again = (own.patches[kind] != start).flatten(1).all(dim=1)
    assert bool(again.any())
    assert not bool(again[0])
    assert int(own.stale[kind].max()) < 3


def test_inner_steps_raise_the_loss_of_what_is_shown() -> None:
    def shown(inner_steps: int) -> tuple[float, Tensor]:
        settings = {"name": "qadtr", "universal_share": 0.0, "personal_share": 1.0}
        settings |= {"inner_steps": inner_steps}
        defense, network, images = build_defense(settings, facts()), started(), batch()
        network.set_bit_width(defense.bit_width(1))
        patches, before = defense.state()["personal.patches"].clone(), snapshot(network)
        pixels = defense.prepare(1, images, network)
        after = snapshot(network)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        with frozen_statistics(network), torch.no_grad():
            loss = float(image_losses(network, pixels, images.labels).sum())
        moved = (defense.state()["personal.patches"].int() - patches.int()).abs()
        return loss, moved[images.indices]

    plain, stays = shown(0)
    stronger, moved = shown(5)
    assert stronger > plain
    assert int(stays.max()) == 0
    # Five signed steps of 25 at most; a patch of the inner pixels alone leaves its border.
    assert 100 < int(moved.max()) <= 125


def test_central_places_lie_in_the_middle_third_and_all_of_it_is_reached() -> None:
    def places(central: float) -> Tensor:
        settings = {"name": "qadtr", "central": central, "personal_px": 4}
        return build_defense(settings, facts(images=4000)).state()["personal.places"]

    # 16×16 px and a patch of 4 px: 13 places an axis, the middle third 4…8.
    inside = ((places(1.0) >= 4) & (places(1.0) <= 8)).all()
    assert bool(inside)
    assert len(places(1.0).unique(dim=0)) == 25
    halves = ((places(0.5) >= 4) & (places(0.5) <= 8)).all(dim=1).float().mean()
    assert abs(float(halves) - (0.5 + 0.5 * 25 / 169)) < 0.04
    assert len(places(0.5).unique(dim=0)) == 169


def test_the_region_is_the_patch_and_its_margin() -> None:
    clean = torch.zeros(2, 3, 16, 16)
    patched = clean.clone()
    patched[0, 1, 4:8, 4:8] = 9.0
    region = patched_region(clean, patched, 2)
    assert int(region[0].sum()) == 64
    assert bool(region[0, 2:10, 2:10].all())
    assert not bool(region[1].any())


def test_steps_against_the_penalty_lower_the_agreement() -> None:
    network, images = started(), batch()
    network.set_bit_width(4)
    region = torch.zeros(16, 16, 16, dtype=torch.bool)
    region[:, 2:10, 2:10] = True

    def agreement() -> Tensor:
        return gradient_agreement(network, images.pixels, images.labels, 8, region)

    parameters = [p for n, p in network.named_parameters() if "scale_" not in n]
    first = float(agreement().detach())
    for _ in range(6):
        gradients = torch.autograd.grad(agreement(), parameters, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                if g is not None:
                    p.sub_(0.02 * g / (g.norm() + 1e-12) * p.norm())
    assert float(agreement().detach()) < first


def test_the_penalty_has_its_own_switch_and_runs_in_whole_rounds() -> None:
    network, images = started(), batch()
    defense = build_defense({"name": "qadtr", "gir_penalty": True, "sizes_px": [4]}, facts())
    without = build_defense({"name": "qadtr"}, facts())
    taken = []
    for step in range(12):
        network.set_bit_width(defense.bit_width(step))
        pixels = defense.prepare(step, images, network)
        before = snapshot(network)
        extra = defense.extra_loss(step, images, pixels, network)
        assert without.extra_loss(step, images, pixels, network) is None
        assert all(torch.equal(before[n], t) for n, t in snapshot(network).items())
        taken.append(extra is not None)
        if extra is not None:
            assert 0.0 < float(extra.detach()) <= 0.5
    assert taken == [True] * 4 + [False] * 4 + [True] * 4
