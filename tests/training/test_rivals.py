"""PBAT and DWQ: inner attacks raise the loss, keep out of the centre, obey their bounds."""

from __future__ import annotations

import pytest
import torch

from deploy.core.errors import InputError
from tests.training.test_defenses import BIT_WIDTHS, batch, facts
from tests.training.test_frozen import snapshot, started
from training.defenses import Batch, build_defense
from training.defenses.inner_attack import Moves, PatchAttack, outer_places, perturb
from training.defenses.pbat import Pbat
from training.frozen import frozen_statistics, image_losses
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

SIZE = (16, 16)


def attack(steps: int = 3, moves: Moves = "none") -> PatchAttack:
    return PatchAttack(image_size=SIZE, size_px=4, steps=steps, step_size=25.5, moves=moves)


def mean_loss(network: Network, pixels: torch.Tensor, images: Batch) -> float:
    with frozen_statistics(network), torch.no_grad():
        return float(image_losses(network, pixels, images.labels).mean())


@pytest.mark.parametrize(("image", "patch"), [((16, 16), 4), ((32, 32), 8), ((24, 40), 6)])
def test_outer_places_are_all_that_miss_the_centre_and_no_others(
    image: tuple[int, int], patch: int
) -> None:
    places = {tuple(place) for place in outer_places(image, patch).tolist()}
    centre = round(min(image) * 10 / 32)
    covered = torch.zeros(image, dtype=torch.bool)
    top, left = (image[0] - centre) // 2, (image[1] - centre) // 2
    covered[top : top + centre, left : left + centre] = True
    for row in range(image[0] - patch + 1):
        for column in range(image[1] - patch + 1):
            free = not bool(covered[row : row + patch, column : column + patch].any())
            assert ((row, column) in places) == free


def test_a_patch_that_fits_nowhere_outside_the_centre_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        outer_places((16, 16), 12)


@pytest.mark.parametrize("moves", ["none", "random", "full"])
def test_the_inner_attack_raises_the_loss_and_changes_one_box(moves: Moves) -> None:
    network, images = started(), batch()
    network.set_bit_width(4)
    before = snapshot(network)

    def after(steps: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        with frozen_statistics(network):
            made = attack(steps, moves).run(network, images.pixels, images.labels, generator)
        changed = made.pixels != images.pixels
        for image, (top, left) in enumerate(made.positions.tolist()):
            changed[image, :, top : top + 4, left : left + 4] = False
            assert (top, left) in {tuple(p) for p in outer_places(SIZE, 4).tolist()}
        assert not bool(changed.any())
        assert torch.equal(made.pixels, made.pixels.round())
        return made.pixels

    assert mean_loss(network, after(6), images) > mean_loss(network, after(0), images)
    assert all(torch.equal(before[n], t) for n, t in snapshot(network).items())


def test_the_content_of_a_patch_follows_its_place() -> None:
    network, images = started(), batch()
    network.set_bit_width(8)
    moved = 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(len(outer_places(SIZE, 4)), (16,), generator=generator)
        first = outer_places(SIZE, 4)[start]
        generator = torch.Generator().manual_seed(seed)
        with frozen_statistics(network):
            made = attack(4, "full").run(network, images.pixels, images.labels, generator)
        moved += int((made.positions != first).any(dim=1).sum())
        assert int(((made.positions - first) % 2).sum()) == 0
        for image, (top, left) in enumerate(made.positions.tolist()):
            box = made.pixels[image, :, top : top + 4, left : left + 4]
            assert torch.equal(box, made.patches[image])
    assert moved > 0


def test_pgd_stays_in_its_ball_and_raises_the_loss() -> None:
    network, images = started(), batch()
    network.set_bit_width(4)
    with frozen_statistics(network):
        attacked = perturb(
            network,
            images.pixels,
            images.labels,
            radius=8.0,
            steps=4,
            step_size=2.0,
            generator=torch.Generator().manual_seed(0),
        )
    assert float((attacked - images.pixels).abs().max()) <= 8.0
    assert 0.0 <= float(attacked.min()) <= float(attacked.max()) <= 255.0
    assert torch.equal(attacked, attacked.round())
    assert mean_loss(network, attacked, images) > mean_loss(network, images.pixels, images)


@pytest.mark.parametrize("kind", ["per-image", "universal"])
def test_pbat_patches_half_of_the_batch(kind: str) -> None:
    table = {"name": "pbat", "kind": kind, "size_px": 4, "inner_steps": 2}
    defense, network, images = build_defense(table, facts()), started(), batch()
    assert isinstance(defense, Pbat)
    first = defense.universal.clone()
    network.set_bit_width(defense.bit_width(0))
    pixels = defense.prepare(0, images, network)
    changed = (pixels != images.pixels).flatten(1).any(dim=1)
    assert int(changed.sum()) == 8
    assert torch.equal(pixels, build_defense(table, facts()).prepare(0, images, network))
    if kind == "universal":
        # One patch for all, kept for the next step and in the resumable state.
        assert not torch.equal(defense.universal, first)
        again = build_defense(table, facts())
        again.load_state(defense.state())
        second = defense.prepare(1, images, network)
        assert torch.equal(second, again.prepare(1, images, network))
    else:
        assert defense.state() == {}


def test_dwq_draws_every_bit_width_and_attacks_the_whole_batch() -> None:
    spec = NetworkSpec(name="resnet8", classes=10, input_size=16, bit_widths=(8, 7, 6, 5, 4))
    network = build_network(spec, torch.Generator().manual_seed(0)).train()
    images = batch()
    for attack_name in ("pgd", "patch"):
        table = {"name": "dwq", "attack": attack_name, "inner_steps": 1, "patch_px": 4}
        defense = build_defense(table, facts(bit_widths=(8, 7, 6, 5, 4)))
        assert {defense.bit_width(step) for step in range(60)} == {4, 5, 6, 7, 8}
        network.set_bit_width(defense.bit_width(0))
        network(images.pixels)
        changed = defense.prepare(0, images, network) != images.pixels
        assert bool(changed.flatten(1).any(dim=1).all())


def test_dwq_refuses_a_network_with_bit_widths_that_it_never_draws() -> None:
    with pytest.raises(InputError, match=r"set network\.bit_widths and defense\.bits"):
        build_defense({"name": "dwq"}, facts(bit_widths=BIT_WIDTHS))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "pbat", "kind": "both"}, "per-image, universal"),
        ({"name": "pbat", "location": "far"}, "none, random, full"),
        ({"name": "pbat", "share": 0.0}, "share must be above 0"),
        ({"name": "pbat", "inner_steps": 0}, "at least 1"),
        ({"name": "dwq", "attack": "fgsm"}, "pgd, patch"),
        ({"name": "dwq", "radius": 0.0}, "above 0"),
    ],
)
def test_wrong_settings_of_the_rivals(table: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_defense(table, facts())
