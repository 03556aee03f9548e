"""What the checks are told: frozen, keyword-only, strict about what it is given."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from training.validated import AtLeast0, AtLeast1, Recorded, validated

_AtLeast2 = Annotated[int, Field(ge=2)]


@validated()
class BatterySettings(Recorded):
    """How the checks attack.

    Attributes:
        images: how many are attacked.
        size_px: side of the patch; half of it and twice it are tried too.
        steps: of the white-box attack; doubled in one check.
        queries: of the gradient-free attack, per image.
        batch_size: images a step.
        seed: of all starts.

    Raises:
        InputError: a value under its least.
    """

    images: Annotated[int, Field(ge=8)] = 100
    size_px: _AtLeast2 = 8
    steps: _AtLeast2 = 100
    queries: Annotated[int, Field(ge=10)] = 300
    batch_size: AtLeast1 = 64
    seed: AtLeast0 = 0
