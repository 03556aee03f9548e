"""A step that rounds pixels to their own value, with no gradient."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor

from eval.measure.fakes.wrapper import Wrapper


class GradientKiller(Wrapper):
    """The right answers and a gradient of zero: what a rounding without a straight-through
    estimator gives (shattered gradients, Athalye et al. 2018)."""

    name: ClassVar[str] = "gradient-killer"

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits as the network gives them for the rounded pixels."""
        # The product keeps the graph, as a real rounding does: its derivative is there, and zero.
        return cast(Tensor, self.network(pixels.round().detach() + 0.0 * pixels))
