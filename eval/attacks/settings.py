"""Settings of the attacks: frozen, keyword-only, and strict about what they are given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from deploy.core.errors import InputError
from eval.attacks.losses import LOSSES, Loss
from eval.attacks.placement import PLACEMENTS, Placement

Shape = Literal["square", "circle"]
Start = Literal["random", "grey"]


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """What every patch attack is told.

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

    Raises:
        InputError: a value outside its range.
    """

    size_px: int = 8
    shape: Shape = "square"
    placement: Placement = "random"
    margin_px: int = 0
    target: int | None = None
    bit_widths: tuple[int, ...] = (32,)
    steps: int = 100
    restarts: int = 1
    start: Start = "random"
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in ("size_px", "steps", "restarts", "batch_size"):
            self._require(name, _whole(getattr(self, name), 1), "a whole number of at least 1")
        self._require("margin_px", _whole(self.margin_px, 0), "a whole number of at least 0")
        self._require("shape", self.shape in ("square", "circle"), "square or circle")
        self._require("start", self.start in ("random", "grey"), "random or grey")
        self._require("placement", self.placement in PLACEMENTS, f"one of {', '.join(PLACEMENTS)}")
        target_is_class = self.target is None or _whole(self.target, 0)
        self._require("target", target_is_class, "a class index or None")
        distinct = len(set(self.bit_widths)) == len(self.bit_widths) > 0
        whole = all(_whole(bits, 1) for bits in self.bit_widths)
        self._require("bit_widths", distinct and whole, "one or more different bit-widths")

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(
                f"{type(self).__name__}: {name} must be {expected}, got {getattr(self, name)!r}."
            )


@dataclass(frozen=True, kw_only=True)
class GradientSettings(AttackSettings):
    """What an attack by signed gradient steps is told besides.

    Attributes:
        step_size: of the first step, in pixel values (0…255); it falls linearly to a tenth, so
            that the last steps refine what the first ones found.
        momentum: decay of the accumulated gradient (MI-FGSM); 0 follows each step's own. Momentum
            carries a patch over the source network's own wrinkles, so that it transfers.
        loss: see ``eval.attacks.losses``.
        confidence: loss, in logits, above which an image no longer counts (margin losses only);
            None lets every image count always.
        shift_px: each step shows the network the pasted images moved by up to this many pixels,
            the same for a whole batch; 0 shows them as they are. What survives the move is likelier
            to survive another network.

    References: Xie et al., "Improving transferability of adversarial examples with input
    diversity" (CVPR 2019), whose random resize and pad is a shift here; Dong et al., "Boosting
    adversarial attacks with momentum" (CVPR 2018).
    """

    step_size: float = 16.0
    momentum: float = 0.9
    loss: Loss = "margin"
    confidence: float | None = None
    shift_px: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("step_size", self.step_size > 0, "over 0")
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._require("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}")
        self._require("shift_px", _whole(self.shift_px, 0), "a whole number of at least 0")
        margin_loss = self.loss != "cross-entropy"
        self._require(
            "confidence", self.confidence is None or margin_loss, "None with cross-entropy"
        )


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
