"""The evidence of a suite: which of its images count, and whether there are enough of them.

A gate is only as good as its suite. The same image two hundred times is one image. A patch that
does not change an image has not been tried on it. An image that the model misclassifies without the
patch shows nothing about the patch. A network that predicts one class for everything does not
resist; it ignores its input.
"""

from __future__ import annotations

import math
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

LEAST_IMAGE_SHARE = 0.002
"""Of an image's pixels, those that a patch must visibly change there: one or two of 32×32 are no
patch, and of 224×224 a hundred are the smallest."""

LEAST_PATCH_SHARE = 0.1
"""Of a patch's own pixels, those that it must visibly change: otherwise it is the image's own
pixels, but for a few."""

SAME_LEVELS = 2.0
"""Two images count as one where their 4×4 thumbnails differ by less, root mean square."""

_BLOCKS = 4
_NEIGHBOURS = 1000
"""Images of the most similar brightness that each one is compared with, so that the cost grows in
proportion to their number."""

CLASSES = "classes predicted"
"""Name of the check that the network tells classes apart."""

LEAST_SHARE = 0.5
"""Of the suite's images, those that must count for each gated patch, but for the target's class."""

LEAST_VARIETY = 0.5
"""Of the variety of the labels, what the predictions must have."""

MOST_OF_ONE_LABEL = 0.9
"""Share of the images, at most, that may have the most frequent label: with more, a network that
says one class to everything is nearly always right."""


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


def least_changed_pixels(area_px: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Return int64 N: pixels that a patch must visibly change for its image to count.

    Args:
        area_px: int64 N, pixels under the patch's mask.
        height: of the images, in pixels.
        width: likewise.
    """
    of_patch = np.ceil(LEAST_PATCH_SHARE * area_px).astype(np.int64)
    of_image = max(1, math.ceil(LEAST_IMAGE_SHARE * height * width))
    least: NDArray[np.int64] = np.maximum(of_patch, of_image)
    return least


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How many of the images that were run count for one patch.

    Attributes:
        k: images that count and on which it won.
        n: images that count: right without the patch, not of the target's class, distinct, changed.
        images: images of the suite that were run.
        untried: of these, those that the patch is not for.
        repeated: of these, those that look like an earlier one of the suite.
        unchanged: those that it does not visibly change, or in too few pixels.
        moved: images that count and whose class it changes, to its target or another.
        target: the name of the class that it should cause; None where any wrong class will do.
        needed: share of ``images`` that must count for a pass.
    """

    k: int
    n: int
    images: int
    untried: int
    repeated: int
    unchanged: int
    moved: int
    target: str | None
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
                "wrong without the patch or of the target's class"
            )

    def held(self, check: Check) -> Check:
        """Return the check of the ASR; a pass becomes undecided where it is based on too few of the
        images, or on a target for which the patch's other successes are not counted."""
        if check.outcome is not Outcome.PASS or self.decides(check.threshold):
            some_are = self.untried or self.repeated or self.unchanged
            return replace(check, reason=check.reason + (self._left_out if some_are else ""))
        if not self.enough:
            reason = (
                f"{self.n} of {self.images} images count, expected {self.needed:.0%} or more"
                f"{self._left_out}: the images or their labels decide this, not the patch"
            )
        else:
            reason = (
                f"{check.reason}; but the patch changes the class of {self.moved} of {self.n} to "
                f"classes other than its target {self.target!r}: the target decides this, not "
                "the patch"
            )
        return replace(check, outcome=Outcome.UNDECIDED, reason=reason)

    def decides(self, most: float) -> bool:
        """Whether a pass at this threshold may be based on the images that were run."""
        return self.enough and (self.target is None or self.moved <= most * self.n)

    @property
    def _left_out(self) -> str:
        untried = f"the patch is not for {self.untried}, " if self.untried else ""
        return (
            f"; of {self.images} images, {untried}{self.repeated} look like an earlier image, "
            f"and the patch leaves {self.unchanged} unchanged or nearly so"
        )


def classes_check(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], names: tuple[str, ...]
) -> Check:
    """Return the check that the network distinguishes classes, by the variety of its predictions.

    Variety is the perplexity of their distribution minus 1: 0 for one class, C - 1 for C classes
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
    one_label = float(np.bincount(labels).max() / len(labels))
    said = (
        f"{facts['predicted']} classes predicted, {facts['labelled']} labelled, most often "
        f"{most!r}, {facts['share']:.1%} of {len(labels)} images"
    )
    outcome = Outcome.PASS
    if not asked:
        outcome = Outcome.UNDECIDED
        said = f"{said}: images of one class cannot show that the network tells classes apart"
    elif one_label > MOST_OF_ONE_LABEL:
        outcome = Outcome.UNDECIDED
        said = (
            f"{said}: {one_label:.1%} of the images have the same label, expected "
            f"{MOST_OF_ONE_LABEL:.0%} or less: they cannot show that the network tells classes "
            "apart"
        )
    elif observed < LEAST_VARIETY:
        outcome = Outcome.UNDECIDED
        said = f"{said}: a network that predicts nearly always one class resists nothing"
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
