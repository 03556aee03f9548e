"""GAP: the Google adversarial patch, one for all images, at any place, size and angle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eval.attacks.base import PatchAttack
from eval.attacks.gradient import sign_ascent
from eval.attacks.problem import Crafted, Problem
from eval.attacks.settings import Degrees, GradientSettings
from training.validated import AtLeast1, ScaleRange, validated
from training.warping import paste_warped


@validated()
class GapSettings(GradientSettings):
    """As ``GradientSettings``, and the expectation over transformations.

    Attributes:
        scale_range: factors on the patch's side between which each image of a step draws one;
            (1, 1) keeps the size.
        rotation_degrees: each image of a step draws an angle in ±this; 0 keeps it upright.

    The transformations belong to the optimization. A patch set is pasted upright at its own size,
    at the places that it lists.
    """

    steps: AtLeast1 = 1000
    scale_range: ScaleRange = (1.0, 1.0)
    rotation_degrees: Degrees = 0.0


class Gap(PatchAttack[GapSettings]):
    """One patch that wins on many images, in expectation over places (and sizes and angles).

    Each step draws images, places, and where asked for scales and angles, and follows the summed
    gradient. The loss defaults to the margin instead of the paper's log-probability of the target:
    an image that is won already should not pull harder than one that is not.

    References: Brown, Mané, Roy, Abadi, Gilmer, "Adversarial patch" (2017), arXiv:1712.09665;
    Athalye et al., "Synthesizing robust adversarial examples" (ICML 2018), the expectation over
    transformations.
    """

    name: ClassVar[str] = "gap"
    settings_type = GapSettings

    @property
    def kind(self) -> Literal["per-image", "universal"]:
        """Always one patch for all images."""
        return "universal"

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        """Signed ascent over freshly drawn images, places, scales and angles."""
        low, high = self.settings.scale_range
        most = math.radians(self.settings.rotation_degrees)
        upright = low == high == 1.0 and most == 0.0

        def apply(pixels: Tensor, patch: Tensor, positions: Tensor) -> Tensor:
            if upright:
                return problem.paste(pixels, patch, positions)
            drawn = torch.rand(2, pixels.shape[0], generator=problem.generator)
            return paste_warped(
                pixels,
                patch,
                problem.mask,
                positions.to(pixels.device),
                scales=(low + (high - low) * drawn[0]).to(pixels.device),
                angles=(most * (2 * drawn[1] - 1)).to(pixels.device),
            )

        return Crafted(patch=sign_ascent(problem, self.settings, apply, stepped))
