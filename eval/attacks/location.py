"""The location-optimized patch: for each image its content and its place, found together."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eval.attacks.base import PatchAttack
from eval.attacks.gradient import Ascent, as_pixels, patch_gradient
from eval.attacks.losses import attack_loss
from eval.attacks.problem import Crafted, Problem
from eval.attacks.settings import GradientSettings
from training.validated import AtLeast0, AtLeast1, validated


@validated()
class LocationSettings(GradientSettings):
    """As ``GradientSettings``, and the search for the place; ``placement`` must be random.

    Attributes:
        first_places: random places tried for each image with the start's content; the optimization
            begins at the best one.
        stride_px: the length of one move, in pixels.
        moves: the moves tried every ``move_every`` steps: one ``random`` direction of the four, or
            all (``full``); an image's patch moves where its loss is higher there.
        move_every: steps between two trials.
    """

    placement: Literal["random"] = "random"
    shift_px: AtLeast0 = 2
    first_places: AtLeast1 = 8
    stride_px: AtLeast1 = 2
    moves: Literal["random", "full"] = "random"
    move_every: AtLeast1 = 1


class Location(PatchAttack[LocationSettings]):
    """A patch for each image, with its place optimized as well as its content.

    Place and content are stored separately and joined by pasting, so the content follows the mask:
    a move takes the whole patch along and leaves nothing behind.

    References: Rao, Stutz, Schiele, "Adversarial training against location-optimized adversarial
    patches" (ECCV Workshops 2020). There the place avoids the image's centre and each step tries
    moves; here every place is allowed, which makes the attacker stronger, and the optimization
    begins at the best of several first places.
    """

    name: ClassVar[str] = "location"
    settings_type = LocationSettings

    @property
    def kind(self) -> Literal["per-image", "universal"]:
        """Always a patch for each image."""
        return "per-image"

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        """Signed ascent of the content, with a trial move of the place between the steps."""
        settings = self.settings
        pixels = as_pixels(problem.images)
        ascent = Ascent(problem, settings)
        kept = {"positions": problem.positions}
        patch = ascent.begin(stepped, kept)
        positions = kept["positions"]
        if ascent.done == 0:
            positions = self._first(problem, pixels, patch)

        while ascent.done < settings.steps:
            step = ascent.done
            gradient = patch_gradient(
                problem, settings, problem.paste, patch, pixels, problem.labels, positions
            )
            patch = ascent.step(patch, gradient)
            # Content fits its place only after a step there: no move after the last step.
            if step % settings.move_every == 0 and step + 1 < settings.steps:
                positions = self._moved(problem, pixels, patch, positions)
            ascent.keep(patch, positions=positions)
            stepped()
        return Crafted(patch=patch, positions=positions)

    def _first(self, problem: Problem, pixels: Tensor, patch: Tensor) -> Tensor:
        trials = [problem.positions]
        for _ in range(self.settings.first_places - 1):
            trials.append(problem.fresh_positions(len(pixels)).to(pixels.device))
        return self._best(problem, pixels, patch, trials)

    def _moved(self, problem: Problem, pixels: Tensor, patch: Tensor, positions: Tensor) -> Tensor:
        stride = self.settings.stride_px
        directions = torch.tensor([[-stride, 0], [stride, 0], [0, -stride], [0, stride]])
        highest = torch.tensor(pixels.shape[2:]) - torch.tensor(problem.mask.shape)
        if self.settings.moves == "random":
            drawn = torch.randint(4, (len(pixels),), generator=problem.generator)
            offsets = [directions[drawn]]
        else:
            offsets = [direction.expand(len(pixels), 2) for direction in directions]
        trials = [positions]
        for offset in offsets:
            moved = (positions.cpu() + offset).clamp(min=0).minimum(highest)
            trials.append(moved.to(positions.device))
        return self._best(problem, pixels, patch, trials)

    @torch.no_grad()
    def _best(
        self, problem: Problem, pixels: Tensor, patch: Tensor, trials: list[Tensor]
    ) -> Tensor:
        """The place of the highest loss among several for each image; the first one of equals."""
        losses = []
        for places in trials:
            pasted = problem.paste(pixels, patch, places)
            total = torch.zeros(len(pixels), device=pixels.device)
            for bits in self.settings.bit_widths:
                with problem.network.at(bits):
                    logits = problem.network(pasted)
                total += attack_loss(
                    self.settings.loss, logits, problem.labels, self.settings.target
                )
            losses.append(total)
        # argmax of equal values is not defined to be the first: compare one by one.
        best, chosen = losses[0], trials[0]
        for loss, places in zip(losses[1:], trials[1:], strict=True):
            better = loss > best
            best = torch.where(better, loss, best)
            chosen = torch.where(better[:, None], places, chosen)
        return chosen
