"""What docs/attacks.md says of the attacks is what they are."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from eval.attacks import ATTACKS
from eval.attacks.supplied.placing import PlacingSettings
from training.patching import circle_mask

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "attacks.md").read_text(encoding="utf-8")
AREA = re.compile(
    r"^\| (\d+) px \| (\d+) px \| (\d+) px, ([\d.]+)% \| (\d+) px, ([\d.]+)% \|$", re.MULTILINE
)


@pytest.mark.parametrize("name", [*ATTACKS, "supplied"])
def test_every_setting_is_told(name: str) -> None:
    settings = PlacingSettings if name == "supplied" else ATTACKS[name].settings_type
    said = {*re.findall(r"[`\w]([a-z_]+)[`=]", TEXT), *re.findall(r"`([a-z_]+)`", TEXT)}
    assert f"`{name}`" in TEXT or name == "supplied"
    options = {"targeted", "kind"}  # told as options in the running text
    assert {field.name for field in fields(settings)} - said - options == set()


def test_the_areas_are_those_of_the_masks() -> None:
    rows = AREA.findall(TEXT)
    assert len(rows) == 5
    for image, side, square, square_share, circle, circle_share in rows:
        pixels = int(image) ** 2
        round_px = int(circle_mask(int(side)).sum())
        assert (int(square), int(circle)) == (int(side) ** 2, round_px)
        assert square_share == f"{100 * int(side) ** 2 / pixels:.1f}"
        assert circle_share == f"{100 * round_px / pixels:.1f}"
