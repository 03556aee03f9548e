"""Two sides of the benchmark: one holds the images, the other does not, and both learn alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.image_cache import DISK, MEMORY, Case, measure


def test_the_side_that_maps_the_images_does_not_hold_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        place = tmp_path / "train" / name
        place.mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")
    case = Case(network="resnet8", size=512, batch=2, steps=1)
    row = measure(case, tmp_path, 2)
    assert row["images"] == 36
    assert row["image_bytes"] == 36 * 3 * 512 * 512
    held = row["bytes_for_images"]
    assert held[MEMORY] - held[DISK] > row["image_bytes"] / 2
    assert row["speed_disk_over_memory"]["median"] > 0.0
