"""What a suite can decide: which of its images count, and whether they are enough of them.

A gate is worth what its suite is worth. One image two hundred times is one image; a patch that
leaves an image as it was has not been tried on it; an image that the model has wrong says nothing
of a patch; and a network that says one class to everything does not resist, it does not look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import NothingToEvaluate
from .gate import Check, Outcome

VISIBLE_LEVELS = 8
"""A pixel is changed where a channel moves by this many of 255 levels: less is an imperceptible
perturbation (the usual bound of those), no patch."""

SAME_LEVELS = 2.0
"""Two images count as one where their 4×4 thumbnails differ by less, root mean square."""

_BLOCKS = 4
_NEIGHBOURS = 1000
"""Images of the most similar brightness that each one is compared with, so that the cost grows in
proportion to their number."""

CLASSES = "classes predicted"
"""Name of the check that the network tells classes apart."""

LEAST_SHARE = 0.5
"""Of the images that a patch is for, those that must count, but for the target's own class."""

LEAST_VARIETY = 0.5
"""Of the variety of the labels, what the predictions must have."""


def distinct_images(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return bool N: True for the first of each group of images (uint8 N×3×H×W) that look alike."""
    thumbnails = _thumbnails(images)
    order = np.argsort(thumbnails.mean(axis=1), kind="stable")
    # The first of a group in the suite's order stays, whichever way brightness orders them.
    group = np.arange(len(images))
    limit = SAME_LEVELS**2 * thumbnails.shape[1]
    for place, row in enumerate(order):
        near = order[max(0, place - _NEIGHBOURS) : place]
        alike = near[((thumbnails[near] - thumbnails[row]) ** 2).sum(axis=1) < limit]
        if len(alike):
            group[row] = group[alike].min()
    _, first = np.unique(group, return_index=True)
    distinct = np.zeros(len(images), np.bool_)
    distinct[first] = True
    return distinct


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    count, channels, height, width = images.shape
    rows = np.linspace(0, height, min(_BLOCKS, height), endpoint=False).astype(np.int64)
    columns = np.linspace(0, width, min(_BLOCKS, width), endpoint=False).astype(np.int64)
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    small = np.empty((count, channels, *areas.shape), np.float32)
    for row in range(count):  # one by one: the sums of all would take eight times their memory
        sums = np.add.reduceat(images[row], rows, axis=1, dtype=np.int64)
        small[row] = np.add.reduceat(sums, columns, axis=2) / areas
    return small.reshape(count, -1)


def changed_pixels(own: NDArray[np.uint8], patched: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return int64 N: pixels of each image (uint8 N×3×H×W) that the patch visibly changes."""
    moved = np.abs(own.astype(np.int16) - patched) >= VISIBLE_LEVELS
    pixels: NDArray[np.int64] = moved.any(axis=1).sum(axis=(1, 2))
    return pixels


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How much of what was run counts for one patch.

    Attributes:
        k: images that count and on which it won.
        n: images that count: right without the patch, not of the target's class, distinct, changed.
        images: images that were run with it.
        repeated: of these, those that look like an earlier one of the suite.
        unchanged: those that it does not visibly change.
        needed: share of ``images`` that must count for a pass.
    """

    k: int
    n: int
    images: int
    repeated: int
    unchanged: int
    needed: float

    @property
    def enough(self) -> bool:
        """Whether a pass may rest on them."""
        return self.n > 0 and self.n >= self.needed * self.images

    def require_any(self, name: str) -> None:
        """Raise NothingToEvaluate where no image counts."""
        if self.n == 0:
            raise NothingToEvaluate(
                f"none of {self.images} images counts for {name}{self._left_out}; the others are "
                "wrong without it or of the target's class"
            )

    def held(self, check: Check) -> Check:
        """Return the check of the ASR; a pass that rests on too few of the images is undecided."""
        if self.enough or check.outcome is not Outcome.PASS:
            left_out = self._left_out if self.repeated or self.unchanged else ""
            return replace(check, reason=check.reason + left_out)
        reason = (
            f"{self.n} of {self.images} images count, expected {self.needed:.0%} or more"
            f"{self._left_out}: the images or their labels decide this, not the patch"
        )
        return replace(check, outcome=Outcome.UNDECIDED, reason=reason)

    @property
    def _left_out(self) -> str:
        return (
            f"; of {self.images}, {self.repeated} look like an earlier image and {self.unchanged} "
            "are left unchanged by the patch"
        )


def classes_check(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], names: tuple[str, ...]
) -> Check:
    """Return the check that the network tells classes apart, by their variety.

    Variety is the perplexity of their distribution, less 1: 0 for one class, C - 1 for C classes
    that are equally frequent.

    Args:
        predictions: int64 N, without a patch.
        labels: int64 N.
        names: of the classes.
    """
    facts = classes_facts(predictions, labels)
    asked, given = _variety(labels), _variety(predictions)
    observed = min(1.0, given / asked) if asked else 0.0
    most = names[facts["most_predicted"]]
    said = (
        f"{facts['predicted']} classes predicted, {facts['labelled']} labelled, most often "
        f"{most!r}, {facts['share']:.1%} of {len(labels)} images"
    )
    outcome = Outcome.PASS
    if not asked:
        outcome = Outcome.UNDECIDED
        said = f"{said}: images of one class cannot show that the network tells classes apart"
    elif observed < LEAST_VARIETY:
        outcome = Outcome.UNDECIDED
        said = f"{said}: a network that says nearly one class to everything resists nothing"
    return Check(
        name=CLASSES,
        outcome=outcome,
        threshold=LEAST_VARIETY,
        observed=observed,
        bounds=None,
        n=len(labels),
        reason=said,
    )


def classes_facts(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> Mapping[str, Any]:
    """Return as JSON values how many classes are predicted and labelled, and the most frequent."""
    counts = np.bincount(predictions)
    return {
        "predicted": int((counts > 0).sum()),
        "labelled": len(np.unique(labels)),
        "most_predicted": int(counts.argmax()),
        "share": float(counts.max() / len(predictions)),
    }


def _variety(classes: NDArray[np.int64]) -> float:
    shares = np.bincount(classes) / len(classes)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()) - 1)
