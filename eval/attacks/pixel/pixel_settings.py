"""Settings of the pixel attacks: frozen, keyword-only, strict."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from training.validated import AtLeast1, Positive, Recorded, validated

PixelAttack = Literal["fgsm", "pgd", "mi-fgsm", "cw", "autoattack-deepfool"]
PIXEL_ATTACKS: tuple[PixelAttack, ...] = get_args(PixelAttack)


@validated()
class PixelSettings(Recorded):
    """The attack and its strength; all attacks are untargeted.

    Attributes:
        attack: ``fgsm`` (one step), ``pgd``, ``mi-fgsm`` (PGD with momentum),
            ``autoattack-deepfool`` (AutoAttack with DeepFool in place of FAB, see
            ``eval.attacks.pixel.library``), all in the L∞ ball; ``cw``, which seeks the least L2
            change.
        epsilon: radius of the L∞ ball in pixel values, 1…255 and whole, like those of an image; 8
            is the usual 8/255. Not used by cw.
        step_size: of pgd and mi-fgsm, in pixel values; None takes a quarter of the radius.
        steps: of pgd and mi-fgsm; of each APGD of autoattack-deepfool; of each search of cw.
        restarts: random starts of pgd and of each APGD.
        queries: of autoattack-deepfool's gradient-free part, Square.
        batch_size: images at once; an interrupted attack continues after the last batch.
        seed: of the random starts.

    References: Goodfellow et al. (ICLR 2015), FGSM; Madry et al. (ICLR 2018), PGD; Dong et al.
    (CVPR 2018), MI-FGSM; Carlini and Wagner (S&P 2017); Croce and Hein (ICML 2020), AutoAttack;
    Moosavi-Dezfooli et al. (CVPR 2016), DeepFool.
    """

    attack: PixelAttack = "pgd"
    epsilon: Annotated[float, Field(ge=1.0, le=255.0, multiple_of=1.0)] = 8.0
    step_size: Positive | None = None
    steps: AtLeast1 = 20
    restarts: AtLeast1 = 1
    queries: AtLeast1 = 1000
    batch_size: AtLeast1 = 100
    seed: int = 0

    @model_validator(mode="after")
    def _step_stays_in_the_ball(self) -> PixelSettings:
        if self.step_size is not None and self.step_size > self.epsilon:
            raise ValueError(
                f"step_size must be at most epsilon, {self.epsilon:g}; got {self.step_size:g}"
            )
        return self
