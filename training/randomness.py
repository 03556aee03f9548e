"""Random numbers as a pure function of (seed, step, purpose).

Nothing in the training draws from a generator that lives from step to step, so a resumed run needs
no generator state to continue with the same bytes.
"""

from __future__ import annotations

import numpy as np
import torch

PURPOSES = (
    "weights",
    "order",
    "augmentation",
    "schedule",
    "patches",
    "noise",
    "attack",
    "partner",
    "restart",
    "masks",
)
"""Independent streams of random numbers; the position in this tuple is part of the seed."""


SETUP = 2**31 - 1
"""The "step" at which what exists before the first step is drawn."""


def seed_for(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose at one step."""
    words = np.random.SeedSequence((seed, step, PURPOSES.index(purpose))).generate_state(2)
    return (int(words[0]) << 31) ^ int(words[1])


def generator_for(
    seed: int, step: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator on ``device`` for one purpose at one step."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, step, purpose))
