"""Where a quantizer's scales come from, as settings and checkpoints name it."""

from __future__ import annotations

from typing import Literal, get_args

ScaleRecipe = Literal["learned", "statistics"]
SCALE_RECIPES: tuple[ScaleRecipe, ...] = get_args(ScaleRecipe)
"""A gradient (LSQ), or a statistic of what is quantized."""


def scale_recipe(name: object) -> ScaleRecipe:
    """The recipe of this name; ``ValueError`` if it is none of :data:`SCALE_RECIPES`."""
    for recipe in SCALE_RECIPES:
        if recipe == name:
            return recipe
    raise ValueError(f"{name!r} is none of {', '.join(SCALE_RECIPES)}")
