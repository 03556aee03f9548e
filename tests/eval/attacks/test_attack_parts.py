"""Settings, losses, places and warped pasting of the attacks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from deploy.core.errors import InputError
from eval.attacks import ATTACKS, attack_from_settings
from eval.attacks.gradient import _masked, _shifted
from eval.attacks.losses import attack_loss
from eval.attacks.placement import PLACEMENTS, positions_for
from training.patching import circle_mask, paste, random_positions, square_mask
from training.warping import paste_warped


@pytest.mark.parametrize("name", ATTACKS)
def test_settings_come_back_from_their_record(name: str) -> None:
    attack = attack_from_settings(name, {"size_px": 6, "bit_widths": [8, 2], "restarts": 3})
    again = attack_from_settings(name, attack.settings.as_record())
    assert again.settings == attack.settings
    assert attack.settings.bit_widths == (8, 2)


def test_unknown_names_tell_the_known_ones() -> None:
    with pytest.raises(
        InputError, match="unknown attack 'pgd'; known: gap, lavan, location, sparse-rs"
    ):
        attack_from_settings("pgd", {})
    with pytest.raises(
        InputError,
        match=r"attack lavan: unknown key 'sise_px'; did you mean 'size_px'\? valid keys",
    ):
        attack_from_settings("lavan", {"sise_px": 6})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size_px": 0}, "attack gap: size_px must be at least 1; got 0"),
        ({"size_px": 6.5}, "attack gap: size_px must be a whole number; got 6.5"),
        ({"steps": True}, "steps must be"),
        ({"shape": "star"}, "shape must be one of square, circle; got 'star'"),
        ({"placement": "left"}, "placement must be one of random, centre"),
        ({"bit_widths": []}, "bit_widths must be"),
        ({"bit_widths": 8}, "bit_widths must be a list; got 8"),
        ({"bit_widths": [8, "4"]}, r"bit_widths\[1\] must be a whole number"),
        ({"bit_widths": [8, 8]}, r"bit_widths: expected different numbers, got \[8, 8\]"),
        ({"target": -1}, "target must be"),
        ({"step_size": 0.0}, "step_size must be above 0; got 0.0"),
        ({"step_size": "fast"}, "step_size must be a number"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; got 1.0"),
        ({"loss": "mse"}, "loss must be one of margin"),
        ({"shift_px": -1}, "shift_px must be at least 0"),
        ({"mask_px": -1}, "mask_px must be at least 0"),
        (
            {"loss": "cross-entropy", "confidence": 3.0},
            "must be left out where loss is",
        ),
        ({"confidence": "high"}, "confidence must be a number"),
        ({"confidence": float("nan")}, "confidence must be a finite number; got nan"),
        ({"scale_range": [1.2, 0.8]}, "scale_range: expected .* low ≤ high"),
        ({"scale_range": [1.2]}, r"the key 'scale_range\[1\]' is missing"),
        ({"rotation_degrees": 200.0}, "rotation_degrees must be"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack_from_settings("gap", values)


def test_lavan_knows_its_two_kinds() -> None:
    with pytest.raises(InputError, match="kind must be one of per-image, universal"):
        attack_from_settings("lavan", {"kind": "both"})


LOGITS = torch.tensor([[5.0, 2.0, 1.0], [0.0, 3.0, 4.0]])
LABELS = torch.tensor([0, 1])


def test_margin_is_positive_exactly_where_the_attack_wins() -> None:
    assert attack_loss("margin", LOGITS, LABELS, None).tolist() == [-3.0, 1.0]
    assert attack_loss("margin", LOGITS, LABELS, 2).tolist() == [-4.0, 1.0]
    assert attack_loss("target-over-source", LOGITS, LABELS, 2).tolist() == [-4.0, 1.0]
    assert attack_loss("target-over-source", LOGITS, torch.tensor([1, 0]), 2).tolist() == [
        -1.0,
        4.0,
    ]
    assert attack_loss("target-over-source", LOGITS, LABELS, None).tolist() == [-3.0, 1.0]


def test_cross_entropy_is_torchs() -> None:
    untargeted = attack_loss("cross-entropy", LOGITS, LABELS, None)
    torch.testing.assert_close(
        untargeted, functional.cross_entropy(LOGITS, LABELS, reduction="none")
    )
    targeted = attack_loss("cross-entropy", LOGITS, LABELS, 2)
    torch.testing.assert_close(targeted, LOGITS.log_softmax(dim=1)[:, 2])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_lies_inside(placement: Any) -> None:
    places = positions_for(placement, 50, (32, 24), (6, 6), torch.Generator(), margin_px=2)
    assert places.shape == (50, 2)
    assert (places >= 0).all()
    assert (places <= torch.tensor([26, 18])).all()


def test_corners_keep_their_margin() -> None:
    draw = torch.Generator()
    assert positions_for("top-right", 1, (32, 24), (6, 6), draw, margin_px=2).tolist() == [[2, 16]]
    with pytest.raises(InputError, match="20 px from the edge, does not fit"):
        positions_for("top-right", 1, (32, 24), (6, 6), draw, margin_px=20)


@pytest.mark.parametrize("mask", [square_mask(6), circle_mask(7)], ids=["square", "circle"])
def test_unwarped_paste_is_the_plain_paste(mask: torch.Tensor) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 24), generator=draw).float()
    patch = torch.randint(0, 256, (4, 3, *mask.shape), generator=draw).float()
    places = random_positions(4, (32, 24), (mask.shape[0], mask.shape[1]), draw)
    warped = paste_warped(pixels, patch, mask, places, scales=torch.ones(4), angles=torch.zeros(4))
    # Bilinear weights of float32 coordinates: off by 1e-5 of the range 255.
    torch.testing.assert_close(warped, paste(pixels, patch, mask, places), atol=5e-3, rtol=0)


def test_a_quarter_turn_turns_the_patch_clockwise() -> None:
    draw = torch.Generator().manual_seed(0)
    patch = torch.randint(0, 256, (1, 3, 6, 6), generator=draw).float()
    places = torch.tensor([[10, 5]])
    warped = paste_warped(
        torch.zeros(1, 3, 32, 24),
        patch,
        square_mask(6),
        places,
        scales=torch.ones(1),
        angles=torch.full((1,), torch.pi / 2),
    )
    turned = patch.rot90(-1, dims=(2, 3))
    torch.testing.assert_close(warped[:, :, 10:16, 5:11], turned, atol=5e-3, rtol=0)


def test_scaling_scales_the_covered_area() -> None:
    def covered(scale: float) -> int:
        warped = paste_warped(
            torch.zeros(1, 3, 32, 32),
            torch.full((1, 3, 8, 8), 200.0),
            square_mask(8),
            torch.tensor([[12, 12]]),
            scales=torch.full((1,), scale),
            angles=torch.zeros(1),
        )
        return int((warped[0, 0] > 0).sum())

    assert (covered(0.5), covered(1.0), covered(2.0)) == (16, 64, 256)


def test_the_warped_pastes_gradient_reaches_the_patch_alone() -> None:
    patch = torch.full((1, 3, 8, 8), 100.0, requires_grad=True)
    warped = paste_warped(
        torch.zeros(3, 3, 32, 32),
        patch,
        circle_mask(8),
        torch.tensor([[0, 0], [12, 12], [24, 24]]),
        scales=torch.tensor([0.8, 1.0, 1.3]),
        angles=torch.tensor([0.3, 0.0, -0.4]),
    )
    warped.sum().backward()
    assert patch.grad is not None
    assert (patch.grad[:, :, 2:6, 2:6] > 0).all()


@pytest.mark.parametrize("size", [(32, 24), (12, 40)], ids=["inside", "larger than the image"])
@pytest.mark.parametrize("mask", [square_mask(6), circle_mask(7)], ids=["square", "circle"])
def test_a_warped_paste_is_that_of_the_whole_image(
    mask: torch.Tensor, size: tuple[int, int]
) -> None:
    draw = torch.Generator().manual_seed(1)
    count, (height, width) = 60, size
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=draw).float()
    patch = torch.randint(0, 256, (count, 3, *mask.shape), generator=draw).float()
    places = torch.stack(
        [torch.randint(-4, side, (count,), generator=draw) for side in (height, width)], dim=1
    )
    scales = 0.5 + 2 * torch.rand(count, generator=draw)
    angles = 7 * torch.rand(count, generator=draw)
    warped = paste_warped(pixels, patch, mask, places, scales=scales, angles=angles)
    for number in range(count):
        expected = _warped_pixel_by_pixel(
            pixels[number], patch[number], mask, places[number], scales[number], angles[number]
        )
        # A pixel whose coordinate is on the edge of a patch pixel may fall on either side of it.
        differs = ((warped[number] - expected).abs() > 0.1).any(dim=0)
        assert int(differs.sum()) <= 1


def _warped_pixel_by_pixel(
    image: torch.Tensor,
    patch: torch.Tensor,
    mask: torch.Tensor,
    place: torch.Tensor,
    scale: torch.Tensor,
    angle: torch.Tensor,
) -> torch.Tensor:
    """The definition, in float64: R(-angle)·d / scale, bilinear, where the nearest pixel covers."""
    shown = image.clone()
    high, wide = mask.shape
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            down = row - float(place[0]) - (high - 1) / 2
            right = column - float(place[1]) - (wide - 1) / 2
            turn, size = float(angle), float(scale)
            x = (math.cos(turn) * right + math.sin(turn) * down) / size + (wide - 1) / 2
            y = (math.cos(turn) * down - math.sin(turn) * right) / size + (high - 1) / 2
            nearest = (round(y), round(x))
            inside = 0 <= nearest[0] < high and 0 <= nearest[1] < wide
            if not inside or not bool(mask[nearest]):
                continue
            x, y = min(max(x, 0.0), wide - 1.0), min(max(y, 0.0), high - 1.0)
            left, top = min(int(x), wide - 2), min(int(y), high - 2)
            a, b = x - left, y - top
            corners = patch[:, top : top + 2, left : left + 2].double()
            weights = torch.tensor([[(1 - b) * (1 - a), (1 - b) * a], [b * (1 - a), b * a]])
            shown[:, row, column] = (corners * weights.double()).sum(dim=(1, 2)).float()
    return shown


def test_a_masked_image_shows_one_grey_square_that_gives_the_patch_no_gradient() -> None:
    pixels = torch.zeros(64, 3, 9, 12, requires_grad=True)
    draw = torch.Generator().manual_seed(1)
    assert _masked(pixels, 0, draw) is pixels
    shown = _masked(pixels, 5, draw)
    grey = (shown == 128.0).all(dim=1)
    assert torch.equal(grey, (shown != 0.0).any(dim=1))
    assert grey.sum(dim=(1, 2)).tolist() == [25] * 64
    rows, columns = grey.any(dim=2), grey.any(dim=1)
    assert rows.sum(dim=1).tolist() == columns.sum(dim=1).tolist() == [5] * 64
    # Every place along both sides, the last included.
    assert set(rows.float().argmax(dim=1).tolist()) == set(range(5))
    assert set(columns.float().argmax(dim=1).tolist()) == set(range(8))
    (gradient,) = torch.autograd.grad(shown.sum(), pixels)
    assert torch.equal(gradient[:, 0] == 0.0, grey)
    assert (_masked(torch.zeros(2, 3, 9, 12), 30, draw) == 128.0).all()


def test_shifted_images_are_moved_crops_of_themselves() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 12, 10, generator=draw)
    assert _shifted(pixels, 0, draw) is pixels
    seen = set()
    for _ in range(200):
        shifted = _shifted(pixels, 2, draw)
        offsets = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                shifted.roll((down, right), (2, 3))[:, :, 2:-2, 2:-2], pixels[:, :, 2:-2, 2:-2]
            )
        ]
        assert len(offsets) == 1
        seen.update(offsets)
    assert len(seen) == 25
