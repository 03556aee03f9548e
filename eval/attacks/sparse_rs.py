"""Sparse-RS as one of the attacks: the search of ``deploy.core.sparse_rs`` on any source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator

from deploy.core.sparse_rs import SparseRsSettings as SearchSettings
from deploy.core.sparse_rs import search_per_image, search_universal
from eval.attacks.base import PatchAttack
from eval.attacks.placement import Placement
from eval.attacks.predictions import logits, predict
from eval.attacks.problem import Crafted, Problem
from eval.attacks.settings import AttackSettings
from training.validated import AtLeast1, PositiveShare, validated


@validated()
class SparseRsSettings(AttackSettings):
    """As ``AttackSettings``; ``steps`` are the queries for each image.

    Attributes:
        kind: ``per-image`` or ``universal``; ``steps`` are then the patches tried.
        placement: ``random`` lets a per-image search move its place, any other keeps it.
        answers: what the source reveals, ``scores`` (logits) or ``labels`` (only the class; at
            one bit-width).
        initial_area: share of the patch that the first changes repaint.
    """

    kind: Literal["per-image", "universal"] = "per-image"
    placement: Placement = "random"
    steps: AtLeast1 = 1000
    answers: Literal["scores", "labels"] = "scores"
    initial_area: PositiveShare = 0.4

    @model_validator(mode="after")
    def _labels_come_from_one_model(self) -> SparseRsSettings:
        if self.answers == "labels" and len(self.bit_widths) > 1:
            raise ValueError("bit_widths must be a single one where answers are labels")
        return self


class SparseRs(PatchAttack[SparseRsSettings]):
    """Random search by squares of one colour, with no gradient and no other network.

    With several source bit-widths it uses the mean of their logits. A search for one image ends
    with its first success, so its patches win narrowly on their source; for patches that transfer,
    use a white-box attack.

    References: Croce, Andriushchenko, Singh, Flammarion, Hein, "Sparse-RS" (AAAI 2022).
    """

    name: ClassVar[str] = "sparse-rs"
    settings_type = SparseRsSettings
    needs_gradients: ClassVar[bool] = False

    @property
    def kind(self) -> Literal["per-image", "universal"]:
        """One patch for each image, or one for all."""
        return self.settings.kind

    def queries_per_image(self) -> int:
        """At most one per step, restart and source bit-width, plus the judging of each restart."""
        settings = self.settings
        return settings.steps * settings.restarts * len(settings.bit_widths)

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        """The final patches of the search."""
        settings = self.settings
        images, labels = problem.images.cpu().numpy(), problem.labels.cpu().numpy()
        fixed = settings.placement != "random"
        search = search_universal if problem.universal else search_per_image
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            while shown < done * settings.steps // total:
                shown += 1
                stepped()

        found = search(
            self._query(problem),
            images,
            labels,
            SearchSettings(
                size_px=settings.size_px,
                queries=settings.steps,
                target=settings.target,
                location="fixed" if fixed else "random",
                initial_area=settings.initial_area,
                batch_size=settings.batch_size,
            ),
            np.random.default_rng(int(torch.randint(2**62, (), generator=problem.generator))),
            positions=problem.positions.cpu().numpy(),
            mask=problem.mask.cpu().numpy(),
            progress=progress,
        )
        # A universal search ends as soon as every image is won.
        for _ in range(settings.steps - shown):
            stepped()
        return Crafted(
            patch=torch.from_numpy(found.patch.astype(np.float32)),
            positions=torch.from_numpy(found.positions.astype(np.int64)),
        )

    def _query(self, problem: Problem) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
        widths = self.settings.bit_widths

        def scores(images: NDArray[np.uint8]) -> NDArray[Any]:
            found = [logits(problem.network, images, bits) for bits in widths]
            mean: NDArray[np.float32] = np.stack(found).mean(axis=0, dtype=np.float32)
            return mean

        def classes(images: NDArray[np.uint8]) -> NDArray[Any]:
            return predict(problem.network, images, widths[0])

        return scores if self.settings.answers == "scores" else classes
