"""Sparse-RS finds what is there to find, asks no more than it may, and gives back what it asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.core.errors import InputError, UsageError
from deploy.core.pasting import paste
from deploy.core.sparse_rs import SparseRsSettings, area_share, search_per_image, search_universal
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine

SIZE = 16


def images(count: int = 12) -> np.ndarray:
    return np.random.default_rng(1).integers(90, 160, (count, 3, SIZE, SIZE), dtype=np.uint8)


class RedCorner:
    """Class 1 where red less green, summed over one quarter, is over a bound; else class 0."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.asked = 0

    def score(self, batch: np.ndarray) -> np.ndarray:
        self.asked += len(batch)
        quarter = batch[:, :, :8, :8].astype(np.float64)
        return (quarter[:, 0] - quarter[:, 1]).sum(axis=(1, 2)) / 255

    def logits(self, batch: np.ndarray) -> np.ndarray:
        score = self.score(batch).astype(np.float32)
        return np.stack([np.full_like(score, self.bound), score, np.full_like(score, -99)], axis=1)

    def classes(self, batch: np.ndarray) -> np.ndarray:
        return self.logits(batch).argmax(axis=1)


def test_it_finds_place_and_colours_where_noise_does_not() -> None:
    pixels, labels = images(), np.zeros(12, np.int64)
    settings = SparseRsSettings(size_px=5, queries=1000)
    model = RedCorner(bound=16)  # 25 is the most that a 5×5 patch can add
    found = search_per_image(model.logits, pixels, labels, settings, np.random.default_rng(0))
    assert found.won.all()
    noise = np.random.default_rng(2).integers(0, 256, (12, 3, 5, 5), dtype=np.uint8)
    mask = np.ones((5, 5), np.bool_)
    assert (model.classes(paste(pixels, noise, mask, found.positions)) == 0).all()
    # What is returned is what was asked about, and the count is the model's own.
    pasted = paste(pixels, found.patch, mask, found.positions)
    assert (model.classes(pasted) == 1).all()
    assert found.queries.max() <= 1000
    assert set(np.unique(found.patch)) <= {0, 255}


def test_the_queries_are_counted_and_bounded() -> None:
    model = RedCorner(bound=1000)  # out of reach
    settings = SparseRsSettings(size_px=4, queries=30, batch_size=5)
    seen: list[tuple[int, int]] = []
    found = search_per_image(
        model.logits,
        images(),
        np.zeros(12, np.int64),
        settings,
        np.random.default_rng(0),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert not found.won.any()
    assert (found.queries == 30).all()
    assert model.asked == 12 * 30
    assert seen[-1] == (360, 360)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_loss_never_rises() -> None:
    model = RedCorner(bound=1000)
    losses = []
    for queries in (1, 40, 200):
        # A longer budget stretches the schedule: compare searches, not prefixes of one.
        settings = SparseRsSettings(size_px=5, queries=queries)
        found = search_per_image(
            model.logits, images(), np.zeros(12, np.int64), settings, np.random.default_rng(4)
        )
        losses.append(found.loss.mean())
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("location", ["fixed", "random"])
def test_a_fixed_place_stays_and_a_random_one_moves(location: str) -> None:
    where = np.tile([[9, 9]], (12, 1))  # outside the quarter that counts
    model = RedCorner(bound=12)
    settings = SparseRsSettings(size_px=6, queries=300, location=location)  # type: ignore[arg-type]
    found = search_per_image(
        model.logits,
        images(),
        np.zeros(12, np.int64),
        settings,
        np.random.default_rng(3),
        positions=where,
    )
    if location == "fixed":
        assert (found.positions == where).all()
        assert not found.won.any()
    else:
        assert found.won.any()
    assert found.positions.min() >= 0
    assert found.positions.max() <= SIZE - 6


def test_a_target_is_reached_or_nothing_is_won() -> None:
    pixels, labels = images(), np.zeros(12, np.int64)
    for target, wins in ((1, True), (2, False)):
        settings = SparseRsSettings(size_px=6, queries=800, target=target)
        model = RedCorner(bound=10)
        found = search_per_image(model.logits, pixels, labels, settings, np.random.default_rng(0))
        assert found.won.all() == wins
        assert found.won.any() == wins


def test_classes_alone_are_enough_for_one_patch_on_many_images() -> None:
    pixels, labels = images(), np.zeros(12, np.int64)
    # Each image has its own distance to the bound, so that the count of wins is a slope.
    pixels[:, 0, :8, :8] += np.linspace(0, 60, 12).astype(np.uint8)[:, None, None]
    settings = SparseRsSettings(size_px=5, queries=300, location="fixed")
    corner = np.full((12, 2), 1)
    found = search_universal(
        RedCorner(bound=14).classes,
        pixels,
        labels,
        settings,
        np.random.default_rng(0),
        positions=corner,
    )
    first = search_universal(
        RedCorner(bound=14).classes,
        pixels,
        labels,
        SparseRsSettings(size_px=5, queries=1, location="fixed"),
        np.random.default_rng(0),
        positions=corner,
    )
    assert found.patch.shape == (1, 3, 5, 5)
    assert found.won.sum() > first.won.sum()
    mask = np.ones((5, 5), np.bool_)
    again = RedCorner(bound=14).classes(paste(pixels, found.patch, mask, found.positions))
    assert ((again != labels) == found.won).all()


def test_a_mask_hides_what_it_does_not_show() -> None:
    mask = np.eye(5, dtype=np.bool_)
    found = search_per_image(
        RedCorner(bound=3).logits,
        images(),
        np.zeros(12, np.int64),
        SparseRsSettings(size_px=5, queries=100),
        np.random.default_rng(0),
        mask=mask,
    )
    assert (found.patch[:, :, ~mask] == 0).all()
    assert found.won.any()


def test_the_same_seed_gives_the_same_bytes_in_a_real_engine(integer_onnx: Path) -> None:
    pixels = np.random.default_rng(11).integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)
    settings = SparseRsSettings(size_px=6, queries=100)
    with OnnxRuntimeEngine(integer_onnx) as engine:
        labels = engine.predict(pixels)
        runs = [
            search_per_image(engine.run, pixels, labels, settings, np.random.default_rng(7))
            for _ in range(2)
        ]
        mask = np.ones((6, 6), np.bool_)
        predicted = engine.predict(paste(pixels, runs[0].patch, mask, runs[0].positions))
    assert runs[0].patch.tobytes() == runs[1].patch.tobytes()
    assert (runs[0].positions == runs[1].positions).all()
    assert ((predicted != labels) == runs[0].won).all()
    assert runs[0].won.any()


def test_the_squares_shrink_with_the_schedule_whatever_the_budget() -> None:
    for queries in (100, 10_000):
        settings = SparseRsSettings(queries=queries)
        shares = [area_share(round(queries * at), settings) for at in (0, 0.01, 0.15, 0.9)]
        assert shares == [0.4, 0.4 / 4, 0.4 / 2**5, 0.4 / 2**9] or queries == 100
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == 0.4


@pytest.mark.parametrize(
    "setting",
    [
        {"size_px": 0},
        {"queries": 0},
        {"location": "somewhere"},
        {"initial_area": 0.0},
        {"location_period": 1},
        {"target": -1},
    ],
)
def test_settings_have_ranges(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        SparseRsSettings(**setting)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    pixels, labels = images(), np.zeros(12, np.int64)
    rng, model = np.random.default_rng(0), RedCorner(bound=1)
    with pytest.raises(InputError, match="17 px does not fit"):
        search_per_image(model.logits, pixels, labels, SparseRsSettings(size_px=17), rng)
    with pytest.raises(InputError, match="label"):
        search_per_image(model.logits, pixels, labels[:3], SparseRsSettings(), rng)
    with pytest.raises(UsageError, match="positions"):
        search_per_image(model.logits, pixels, labels, SparseRsSettings(location="fixed"), rng)
    with pytest.raises(InputError, match="expected a target of 0 to"):
        search_per_image(model.logits, pixels, labels, SparseRsSettings(target=3), rng)
    with pytest.raises(InputError, match="logits"):
        search_per_image(lambda batch: batch, pixels, labels, SparseRsSettings(), rng)
