"""Networks and images whose analyses are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy.core.patch_set import PatchSet
from eval.measure.analyses.sample import Sample, draw_sample
from training.data.image_set import image_set

SIDE = 16


class Planted(nn.Module):
    """Logits that are linear in the pixels, with weights (classes×3×16×16) for each bit-width."""

    def __init__(self, weights: Mapping[int, Tensor], bias: Tensor) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.bias = bias
        self.bits = max(weights)

    @contextmanager
    def at(self, bits: int) -> Iterator[Planted]:
        before, self.bits = self.bits, bits
        try:
            yield self
        finally:
            self.bits = before

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", pixels, self.weights[self.bits]) + self.bias


def planted(weights: Mapping[int, Tensor], bias: tuple[float, ...] = (0.0, 0.0)) -> Planted:
    return Planted(weights, torch.tensor(bias)).eval()


def make_sample(
    *,
    clean: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    content: int = 255,
    size: int = 4,
    place: tuple[int, int] = (4, 8),
    count: int = 6,
    side: int = SIDE,
) -> Sample:
    """Noise (or ``clean``) with one constant patch at one place on all images."""
    if clean is None:
        rng = np.random.default_rng(1)
        clean = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    count = len(clean)
    labels = np.zeros(count, np.int64) if labels is None else labels
    images = image_set(clean, labels, ("a", "b"), name="noise", split="test")
    patch_set = PatchSet(
        name="constant",
        kind="universal",
        patch=np.full((1, 3, size, size), content, np.uint8),
        mask=np.ones((size, size), np.bool_),
        positions=np.tile(np.array([place], np.int32), (count, 1)),
        image_indices=np.arange(count),
    )
    return draw_sample(images, patch_set, None)


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture
def network() -> Callable[..., Planted]:
    return planted
