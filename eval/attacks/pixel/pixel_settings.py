"""Settings of the pixel attacks: frozen, keyword-only, strict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from deploy.core.errors import InputError

PixelAttack = Literal["fgsm", "pgd", "mi-fgsm", "cw", "autoattack"]
PIXEL_ATTACKS: tuple[PixelAttack, ...] = get_args(PixelAttack)


@dataclass(frozen=True, kw_only=True)
class PixelSettings:
    """Which attack, and how strong; all are untargeted.

    Attributes:
        attack: ``fgsm`` (one step), ``pgd``, ``mi-fgsm`` (PGD with momentum), ``autoattack`` (see
            ``eval.attacks.pixel.library``), all in the L∞ ball; ``cw``, which seeks the least L2
            change.
        epsilon: radius of the L∞ ball in pixel values, 0…255; 8 is the usual 8/255. Not of cw.
        step_size: of pgd and mi-fgsm, in pixel values; None takes a quarter of the radius.
        steps: of pgd and mi-fgsm; of each APGD of autoattack; of each search of cw.
        restarts: random starts of pgd and of each APGD.
        queries: of autoattack's gradient-free part, Square.
        batch_size: images at once; an interrupted attack continues behind the last batch.
        seed: of the random starts.

    References: Goodfellow et al. (ICLR 2015), FGSM; Madry et al. (ICLR 2018), PGD; Dong et al.
    (CVPR 2018), MI-FGSM; Carlini and Wagner (S&P 2017); Croce and Hein (ICML 2020), AutoAttack.

    Raises:
        InputError: a value outside its range.
    """

    attack: PixelAttack = "pgd"
    epsilon: float = 8.0
    step_size: float | None = None
    steps: int = 20
    restarts: int = 1
    queries: int = 1000
    batch_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        self._require("attack", self.attack in PIXEL_ATTACKS, f"one of {', '.join(PIXEL_ATTACKS)}")
        self._require("epsilon", 0 < self.epsilon <= 255, "over 0 and at most 255 pixel values")
        given = self.step_size
        self._require("step_size", given is None or 0 < given <= self.epsilon, "in (0, epsilon]")
        for name in ("steps", "restarts", "queries", "batch_size"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            self._require(name, whole, "a whole number of at least 1")

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return asdict(self)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(f"pixel attack: {name} must be {expected}, got {getattr(self, name)}")
