"""LaVAN: a small patch at a fixed place, for one image each or for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from eval.attacks.base import PatchAttack
from eval.attacks.gradient import sign_ascent
from eval.attacks.placement import Placement
from eval.attacks.problem import Crafted, Problem
from eval.attacks.settings import GradientSettings
from training.validated import AtLeast0, validated


@validated()
class LavanSettings(GradientSettings):
    """As ``GradientSettings``, and whether a patch is for one image or for all.

    Attributes:
        kind: ``per-image`` (the default, a patch for each image) or ``universal``.
        placement: LaVAN keeps the patch at one place, off the object: a corner. ``centre`` is the
            stronger place, and the default, because a defense must also hold there.
        shift_px: 2, because patches are made to be tried on other networks. 0 is slightly stronger
            against the source itself.
    """

    kind: Literal["per-image", "universal"] = "per-image"
    placement: Placement = "centre"
    shift_px: AtLeast0 = 2


class Lavan(PatchAttack[LavanSettings]):
    """Raises the target's logit and lowers the source's, with the patch at a fixed place.

    With the loss ``target-over-source`` this is the paper's z_target − z_source; the default
    ``margin`` also holds down the other classes. Untargeted, the strongest wrong class is raised.
    The paper follows the plain gradient; here the steps are signed, with momentum, which needs
    fewer of them and transfers better.

    References: Karmon, Zoran, Goldberg, "LaVAN: Localized and visible adversarial noise"
    (ICML 2018).
    """

    name: ClassVar[str] = "lavan"
    settings_type = LavanSettings

    @property
    def kind(self) -> Literal["per-image", "universal"]:
        """One patch for each image, or one for all."""
        return self.settings.kind

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        """Signed ascent at the problem's places."""
        return Crafted(patch=sign_ascent(problem, self.settings, problem.paste, stepped))
