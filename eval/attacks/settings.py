"""Settings of the attacks: frozen, keyword-only and strictly checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eval.attacks.losses import Loss
from eval.attacks.placement import Placement, positions_for
from training.validated import (
    AtLeast0,
    AtLeast1,
    BitWidths,
    NotNegative,
    Positive,
    Recorded,
    validated,
)

Shape = Literal["square", "circle"]
Start = Literal["random", "grey"]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]
Degrees = Annotated[float, Field(ge=0.0, le=180.0)]


@validated()
class AttackSettings(Recorded):
    """The settings of every patch attack.

    Attributes:
        size_px: side of the patch's box, in pixels.
        shape: the square fills the box, the circle is inscribed in it.
        placement: where the box goes; ``random`` draws a place for each image.
        margin_px: distance of a corner placement from the image's edges.
        target: the class to cause; None for any wrong class.
        bit_widths: of the source network (32 is float); several are attacked at once.
        steps: of the optimization, per restart.
        restarts: independent tries, of which the best on the source is kept (per-image attacks:
            the best for each image).
        start: content at the start: uniform noise, or grey (128).
        batch_size: images per step.
    """

    size_px: AtLeast1 = 8
    shape: Shape = "square"
    placement: Placement = "random"
    margin_px: AtLeast0 = 0
    target: AtLeast0 | None = None
    bit_widths: BitWidths = (32,)
    steps: AtLeast1 = 100
    restarts: AtLeast1 = 1
    start: Start = "random"
    batch_size: AtLeast1 = 128

    def positions(
        self, count: int, image_size: Sequence[int], generator: torch.Generator
    ) -> Tensor:
        """Places for ``count`` images of (H, W) pixels: int64 count×2, as ``positions_for``."""
        box = (self.size_px, self.size_px)
        margin = self.margin_px
        return positions_for(self.placement, count, image_size, box, generator, margin_px=margin)


@validated()
class GradientSettings(AttackSettings):
    """The additional settings of an attack by signed gradient steps.

    Attributes:
        step_size: of the first step, in pixel values (0…255); it falls linearly to a tenth, so
            that the last steps refine what the first ones found.
        momentum: decay of the accumulated gradient (MI-FGSM); 0 follows each step's own gradient.
            Momentum carries a patch past local irregularities of the source network, so that it
            transfers.
        loss: see ``eval.attacks.losses``.
        confidence: loss, in logits, above which an image no longer counts (margin losses only);
            with None every image always counts.
        shift_px: each step moves the pasted images by up to this number of pixels, the same for a
            whole batch; 0 leaves them unmoved. A patch that survives the move is likelier to
            transfer to another network.
        mask_px: each step covers each pasted image with one grey square of this side, at a place
            drawn for each image; 0 covers nothing. A patch that wins under such squares is likelier
            to win against masked inference, which uses the same masks.

    References: Xie et al., "Improving transferability of adversarial examples with input
    diversity" (CVPR 2019), whose random resize and pad is a shift here; Dong et al., "Boosting
    adversarial attacks with momentum" (CVPR 2018).
    """

    step_size: Positive = 16.0
    momentum: Momentum = 0.9
    loss: Loss = "margin"
    confidence: NotNegative | None = None
    shift_px: AtLeast0 = 0
    mask_px: AtLeast0 = 0

    @model_validator(mode="after")
    def _confidence_is_a_margin(self) -> GradientSettings:
        if self.confidence is not None and self.loss == "cross-entropy":
            raise ValueError("confidence must be left out where loss is cross-entropy")
        return self
