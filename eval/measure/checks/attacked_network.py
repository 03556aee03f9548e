"""The checked network at one bit-width, with its correctly classified images and the attacks on it.

All attacks here are per image, on the same images, at the same places, so that any two of them can
be compared image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from deploy.core.errors import NothingToEvaluate
from deploy.core.pasting import paste
from eval.attacks.adaptive.ascent import Ascended, AscentSettings, ascend, likeliest_wrong
from eval.attacks.adaptive.straight_through import attacked as attacking
from eval.attacks.adaptive.victim import Victim, pixel_gradient
from eval.attacks.judging import generator_for
from eval.attacks.losses import Loss, attack_loss
from eval.attacks.placement import positions_for
from eval.attacks.predictions import evaluation_mode, logits
from eval.measure.checks.checks_record import Flags
from eval.measure.checks.unfinished import Attacks
from training.patching import paste as paste_torch
from training.patching import patch_gradient
from training.prediction import SwitchableNetwork
from training.validated import AtLeast0, AtLeast1, Recorded, validated

_DRAWS = 4
"""K of the expectation where randomness is known."""

_CLASSES = 9
"""Wrong classes that a resisting image is driven to."""


_AtLeast2 = Annotated[int, Field(ge=2)]


@validated()
class BatterySettings(Recorded):
    """Settings of the attacks of the checks.

    Attributes:
        images: number of attacked images.
        size_px: side of the patch; half of it and twice it are tried too.
        steps: of the white-box attack; doubled in one check.
        queries: of the gradient-free attack, per image.
        batch_size: images per step.
        seed: of all starts.
    """

    images: Annotated[int, Field(ge=8)] = 100
    size_px: _AtLeast2 = 8
    steps: _AtLeast2 = 100
    queries: Annotated[int, Field(ge=10)] = 300
    batch_size: AtLeast1 = 64
    seed: AtLeast0 = 0


class AttackedNetwork:
    """A network at one bit-width and the attacks made on it so far.

    Attributes:
        images, labels: those that it classifies correctly, uint8 N×3×H×W and int64 N.
        pixels, classes: the same as tensors.
        attacks: made so far, by the patch's height and width in pixels and the steps.

    Raises:
        NothingToEvaluate: it classifies none of the given images correctly.
    """

    def __init__(
        self,
        network: SwitchableNetwork,
        bits: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        settings: BatterySettings,
        *,
        stand_in: SwitchableNetwork | None = None,
        noise: float = 0.0,
    ) -> None:
        """``stand_in`` as for a :class:`Victim`; ``noise``: standard deviation that randomness
        gives a margin; the attack then averages over draws, and continues until the margin exceeds
        the noise."""
        self.network, self.bits, self.settings = network, bits, settings
        right = logits(network, images, bits).argmax(axis=1) == labels
        if not right.any():
            raise NothingToEvaluate(
                f"at {bits} bits the network has none of {len(images)} images right: there is "
                "nothing to attack"
            )
        self.images, self.labels = images[right], labels[right]
        self.pixels = torch.from_numpy(self.images)
        self.classes = torch.from_numpy(self.labels)
        self.victim = Victim(network=network, bit_widths=(bits,), stand_in=stand_in)
        self._noise = noise
        self.attacks: Attacks = {}

    def won(self, *, size_px: int | None = None, steps: int | None = None) -> Flags:
        """The successes that the white-box attack claims, bool N, computed once for each size and
        number of steps."""
        size = size_px or self.settings.size_px
        return self.attack(size, size, steps or self.settings.steps)[0]

    def patches(self) -> NDArray[np.uint8]:
        """The patches of the white-box attack with the settings' size and steps, uint8 N×3×h×w."""
        size = self.settings.size_px
        return self.attack(size, size, self.settings.steps)[1]

    def attack(self, height: int, width: int, steps: int) -> tuple[Flags, NDArray[np.uint8]]:
        """The white-box attack from random pixels, run once: its successes, bool N, and its
        patches, uint8 N×3×height×width."""
        key = height, width, steps
        if key not in self.attacks:
            found = self.ascend(self.victim, self.start(height, width), steps)
            self.attacks[key] = (found.margin.numpy() > 0, found.patch.numpy())
        return self.attacks[key]

    def ascend(
        self,
        victim: Victim,
        start: Tensor,
        steps: int,
        *,
        confidence: float = AscentSettings.confidence,
    ) -> Ascended:
        """The attack on any network, for these images.

        Images that resist are then driven to each wrong class in turn (at most :data:`_CLASSES`),
        unless the attack is one step.

        Args:
            victim: this network, or another.
            start: uint8 N×3×h×w, the initial patches.
            steps: of each ascent.
            confidence: the margin above which an image is not attacked further.
        """
        rows = torch.arange(len(self.images))
        best = self._ascended(victim, rows, start, steps, None, confidence)
        if steps == 1:
            return best
        wrong = likeliest_wrong(victim, self.pixels, self.classes, self.draw("classes"))
        for rank in range(min(_CLASSES, wrong.shape[1])):
            rows = ((best.wins < 1.0) | (best.margin <= 0)).nonzero()[:, 0]
            if not len(rows):
                break
            toward = wrong[rows, rank]
            found = self._ascended(victim, rows, start[rows], steps, toward, confidence)
            best.keep_better(rows, found)
        return best

    def _ascended(
        self,
        victim: Victim,
        rows: Tensor,
        start: Tensor,
        steps: int,
        toward: Tensor | None,
        confidence: float,
    ) -> Ascended:
        return ascend(
            victim,
            self.pixels[rows],
            self.classes[rows],
            _all_of(start),
            self.positions(start.shape[2:])[rows],
            start,
            AscentSettings(
                steps=steps,
                batch_size=self.settings.batch_size,
                draws=_DRAWS if self._noise else 1,
                confidence=confidence + 3.0 * self._noise,
            ),
            self.draw("attack"),
            toward=toward,
        )

    def loss_and_gradient(self, patch: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """Per image: loss N and gradient of the patch N×3×h×w, unchanged."""
        mask, places = _all_of(patch), self.positions(patch.shape[2:])
        pasted = paste_torch(self.pixels.float(), patch.float(), mask, places)
        seen = pasted.requires_grad_()
        with (
            evaluation_mode(self.network),
            attacking(self.network, "clipped"),
            self.network.at(self.bits),
        ):
            found = attack_loss(loss, self.network(seen), self.classes, None)
            gradient = pixel_gradient(found.sum(), seen)
        return found.detach(), patch_gradient(gradient, mask, places)

    def start(self, height: int, width: int | None = None) -> Tensor:
        """Random pixels, uint8 N×3×height×width, the same at every call; a square without width."""
        shape = (*self.images.shape[:2], height, height if width is None else width)
        return torch.randint(0, 256, shape, generator=self.draw(f"{height}"), dtype=torch.uint8)

    def positions(self, box: Sequence[int]) -> Tensor:
        """The places of patches of that height and width, int64 N×2."""
        count, (height, width) = len(self.images), box
        size = self.images.shape[2:]
        return positions_for("centre", count, size, (height, width), self.draw("places"))

    def pasted(self, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The images, each with its patch, uint8 N×3×H×W."""
        places = self.positions(patch.shape[2:]).numpy().astype(np.int32)
        return paste(self.images, patch, np.ones(patch.shape[2:], np.bool_), places)

    def rescored(self, patch: NDArray[np.uint8]) -> Flags:
        """Whether each image's patch wins, bool N, on new answers of the network."""
        found = logits(self.network, self.pasted(patch), self.bits)
        flags: Flags = found.argmax(axis=1) != self.labels
        return flags

    def draw(self, purpose: str) -> torch.Generator:
        """The generator of one purpose, in its initial state."""
        return generator_for(self.settings.seed, purpose)


def _all_of(patch: Tensor) -> Tensor:
    """The mask of a patch N×3×h×w that hides all of its box, bool h×w."""
    return torch.ones(patch.shape[2:], dtype=torch.bool)
