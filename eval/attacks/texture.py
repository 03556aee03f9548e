"""Texture search: a patch cut from a natural texture, found without gradients.

An action says which texture of a library, which cut-out of it, how it is flipped, and where in the
image it goes. Each step shows the source one action for each image. An action is drawn anew (the
texture by how well it did so far on images of the same class) or is the image's best one with a
single part changed; it replaces the best one where the source answers that it does better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eval.attacks.base import PatchAttack
from eval.attacks.placement import Placement
from eval.attacks.problem import Crafted, Problem
from eval.attacks.querying import Answers, progress_of
from eval.attacks.settings import AttackSettings
from eval.attacks.textures import TextureSource, texture_library
from training.validated import AtLeast1, validated

_LAST_NEW_SHARE = 0.1
"""Of the actions that are drawn anew in the second half of the search."""


@validated()
class TextureSettings(AttackSettings):
    """As ``AttackSettings``; ``steps`` are the queries for each image.

    Attributes:
        placement: ``random`` lets the search choose the place, any other keeps it there.
        answers: what the source reveals, ``scores`` (logits) or ``labels`` (the class alone).
        textures: how many the library has.
        texture_source: what they are made of, see ``eval.attacks.textures``.
    """

    placement: Placement = "random"
    steps: AtLeast1 = 400
    answers: Answers = "scores"
    textures: AtLeast1 = 100
    texture_source: TextureSource = "both"


class Texture(PatchAttack[TextureSettings]):
    """Gradient-free search over textures, their cut-outs and their places, for each image.

    References: Yang, Kortylewski, Xie, Cao, Yuille, "PatchAttack: a black-box texture-based attack
    with reinforcement learning" (ECCV 2020). There the textures are synthesized from ImageNet
    images through the Gram matrices of a VGG network, and an agent is trained for each image by
    policy gradients. Here the library is made from training images and noise without any other
    network, and the agent is an evolutionary search with a preference over textures.
    """

    name: ClassVar[str] = "texture"
    settings_type = TextureSettings
    needs_gradients: ClassVar[bool] = False
    needs_training_images: ClassVar[bool] = True

    @property
    def kind(self) -> Literal["per-image", "universal"]:
        """Always a patch for each image."""
        return "per-image"

    def queries_per_image(self) -> int:
        """One a step and source bit-width."""
        return self.settings.steps * len(self.settings.bit_widths)

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        """The best action of each image after ``steps`` queries."""
        settings, draw = self.settings, problem.generator
        assert problem.training_images is not None  # the base class has looked
        library = texture_library(
            problem.training_images,
            count=settings.textures,
            size_px=settings.size_px,
            source=settings.texture_source,
            generator=draw,
        )
        space = _Actions(problem, library, moves=settings.placement == "random")
        preferred = _Preference(problem.labels.cpu(), len(library))
        best = space.drawn(preferred.draw(draw))
        score = self._asked(problem, space, best)
        preferred.learn(best[:, 0], score)
        stepped()
        for step in range(1, settings.steps):
            share = max(_LAST_NEW_SHARE, 1.0 - 2.0 * step / settings.steps)
            anew = torch.rand(len(best), generator=draw) < share
            fresh = space.drawn(preferred.draw(draw))
            tried = torch.where(anew[:, None], fresh, space.changed(best, fresh))
            found = self._asked(problem, space, tried)
            preferred.learn(tried[:, 0], found)
            # Equals are taken too: with labels alone most answers are equal.
            better = found >= score
            best = torch.where(better[:, None], tried, best)
            score = torch.where(better, found, score)
            stepped()
        patch, positions = space.rendered(best)
        return Crafted(patch=patch, positions=positions)

    def _asked(self, problem: Problem, space: _Actions, actions: Tensor) -> Tensor:
        patch, positions = space.rendered(actions)
        device = problem.images.device
        found = progress_of(problem, patch.to(device), positions.to(device), self.settings.answers)
        return found.cpu()


class _Actions:
    """Actions, int64 N×8 on the CPU: texture, cut-out's top and left, three flips, top and left.

    Attributes of an action beyond the library or the image do not occur.
    """

    _PARTS = ((0,), (1, 2), (3, 4, 5), (6, 7))
    """What one change alters: the texture, the cut-out, the flips, the place."""

    def __init__(self, problem: Problem, library: Tensor, *, moves: bool) -> None:
        self._library = library
        self._fixed = None if moves else problem.positions.cpu()
        self._draw = problem.generator
        self._side = problem.mask.shape[0]
        slack = library.shape[2] - self._side + 1
        height, width = problem.images.shape[2:]
        self._limits = torch.tensor(
            [
                len(library),
                slack,
                slack,
                2,
                2,
                2,
                height - self._side + 1,
                width - self._side + 1,
            ]
        )

    def drawn(self, textures: Tensor) -> Tensor:
        """New actions with the given textures (int64 N), everything else uniform."""
        uniform = torch.rand(len(textures), len(self._limits), generator=self._draw)
        actions = (uniform * self._limits).long().minimum(self._limits - 1)
        actions[:, 0] = textures
        return self._placed(actions)

    def changed(self, actions: Tensor, fresh: Tensor) -> Tensor:
        """Each action with one part taken from ``fresh``; half of the moves are by 2 px at most."""
        parts = torch.randint(len(self._PARTS), (len(actions),), generator=self._draw)
        near = torch.rand(len(actions), generator=self._draw) < 0.5
        nudges = torch.randint(-2, 3, (len(actions), 8), generator=self._draw)
        result = actions.clone()
        for number, columns in enumerate(self._PARTS):
            rows = parts == number
            for column in columns:
                new = fresh[:, column]
                if column in (1, 2, 6, 7):
                    nudged = actions[:, column] + nudges[:, column]
                    nudged = nudged.clamp(min=0, max=int(self._limits[column]) - 1)
                    new = torch.where(near, nudged, new)
                result[rows, column] = new[rows]
        return self._placed(result)

    def rendered(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Patches, float N×3×h×h, and positions, int64 N×2."""
        steps = torch.arange(self._side)
        rows = actions[:, 1, None] + steps
        columns = actions[:, 2, None] + steps
        # Integer indices around the slice put the channels last: N×h×h×3.
        patch = self._library[actions[:, 0, None, None], :, rows[:, :, None], columns[:, None]]
        patch = patch.permute(0, 3, 1, 2)
        turns: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda shown: shown.flip(2),
            lambda shown: shown.flip(3),
            lambda shown: shown.transpose(2, 3),
        )
        for column, turn in enumerate(turns, start=3):
            wanted = actions[:, column, None, None, None] == 1
            patch = torch.where(wanted, turn(patch), patch)
        return patch.float(), actions[:, 6:]

    def _placed(self, actions: Tensor) -> Tensor:
        if self._fixed is not None:
            actions[:, 6:] = self._fixed
        return actions


class _Preference:
    """How well each texture did on images of each class, and draws by it."""

    def __init__(self, labels: Tensor, textures: int) -> None:
        self._labels = labels
        shape = (int(labels.max()) + 1, textures)
        self._sum, self._count = torch.zeros(shape), torch.zeros(shape)

    def learn(self, textures: Tensor, scores: Tensor) -> None:
        """Take in what the images' textures (int64 N) scored (float N)."""
        where = (self._labels, textures)
        self._sum.index_put_(where, scores, accumulate=True)
        self._count.index_put_(where, torch.ones_like(scores), accumulate=True)

    def draw(self, generator: torch.Generator) -> Tensor:
        """A texture for each image, int64 N: a softmax of the standardized mean scores."""
        # An untried texture counts as the class's mean, seen once.
        seen = self._count.sum(1, keepdim=True).clamp_min(1.0)
        prior = self._sum.sum(1, keepdim=True) / seen
        mean = (self._sum + prior) / (self._count + 1.0)
        spread = mean.std(1, keepdim=True, unbiased=False).clamp_min(1e-6)
        weights = ((mean - prior) / spread).softmax(dim=1)
        return torch.multinomial(weights[self._labels], 1, generator=generator)[:, 0]
