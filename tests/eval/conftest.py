"""A small real network, trained once per test run on scanned digits (seconds)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from training.data import ImageSet, load_images


class DigitNetwork(nn.Module):
    """Three convolutions; ``at(b)`` rounds their weights to b bits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.bits = 32
        sizes = [(3, 12), (12, 24), (24, 32)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in sizes)
        self.head = nn.Linear(32, 10)

    @contextmanager
    def at(self, bits: int) -> Iterator[DigitNetwork]:
        before, self.bits = self.bits, bits
        try:
            yield self
        finally:
            self.bits = before

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - 128.0) / 64.0
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv2d)
            weight = layer.weight
            if self.bits < 32:
                step = weight.abs().amax() / (2 ** (self.bits - 1) - 1)
                weight = (weight / step).round() * step
            x = functional.conv2d(x, weight, layer.bias, stride=2, padding=1).relu()
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def train(digits: ImageSet, seed: int) -> DigitNetwork:
    network = DigitNetwork(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(seed)
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    for _ in range(250):
        chosen = torch.randint(len(images), (64,), generator=draw)
        loss = functional.cross_entropy(network(images[chosen].float()), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_images("digits", None, "train")


@pytest.fixture(scope="session")
def held_out_digits() -> ImageSet:
    return load_images("digits", None, "test")


@pytest.fixture(scope="session")
def digit_network(digits: ImageSet) -> DigitNetwork:
    return train(digits, seed=0)


@pytest.fixture(scope="session")
def other_digit_network(digits: ImageSet) -> DigitNetwork:
    return train(digits, seed=1)


def _checks(
    *statuses: str, bits: int = 2, sha: str = "e" * 64, planted: str | None = None
) -> dict[str, Any]:
    names = ("gradient-reaches-patch", "randomness", "doubled-steps", "transfer")
    payload = {
        "key": sha256(f"{sha}{bits}{statuses}{planted}".encode()).hexdigest(),
        "model": {
            "network": "resnet8",
            "defense": "qadtr",
            "bit_width": bits,
            "checkpoint_sha256": sha,
            "planted": planted,
        },
        "images": {
            "name": "cifar10",
            "split": "test",
            "digest": "d" * 64,
            "n": 100,
            "classes": ["cat"],
        },
        "checked_images": 64,
        "attack": {"steps": 100},
        "checks": [
            {"name": name, "status": status, "measured": "", "figures": {}}
            for name, status in zip(names, statuses, strict=False)
        ],
    }
    return {"format_version": 1, "kind": CHECKS_KIND, "payload": payload, "provenance": {}}


@pytest.fixture
def attack_checks() -> Callable[..., dict[str, Any]]:
    """A maker of checks records from the statuses of the first few checks."""
    return _checks
