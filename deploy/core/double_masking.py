"""Double masking: a prediction that no patch of a size can change, and the proof of it.

PatchCleanser (Xiang, Mahloujifar, Mittal; USENIX Security 2022). A covering set of masks has, for
every place of a patch, a mask that hides the whole patch. An image is *certified* if the network
predicts the image's label under every pair of masks: then masked inference
(:func:`predict_masked`) predicts that label for any content and any place of a patch of the size.
The proof assumes nothing about the network, so it holds for the integer engine that is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, NothingToEvaluate, UsageError
from .share import Share, share, share_of
from .success import AttackSuccess, attack_success

Predict = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Classes, int64 N, of images uint8 N×C×H×W; any N of 1 or more."""

GREY = 128
"""The byte that a mask shows, in training too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskSet:
    """Masks that hide every patch of a size, at any place.

    Attributes:
        patch_px: side of the square patches, in pixels.
        image_size: height and width of the images, in pixels.
        boxes: int64 M×4: top, left, bottom, right; bottom and right are the first pixels outside.
    """

    patch_px: int
    image_size: tuple[int, int]
    boxes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def pairs(self) -> int:
        """The number of pairs, including each mask with itself."""
        return len(self) * (len(self) + 1) // 2

    @property
    def steps(self) -> int:
        """The total that :func:`certify` counts to: pairs, and both rounds of masked inference."""
        return self.pairs + 2 * len(self)

    @property
    def mask_px(self) -> tuple[int, int]:
        """Height and width of every mask."""
        top, left, bottom, right = self.boxes[0].tolist()
        return bottom - top, right - left

    def over(self, images: NDArray[np.uint8], *numbers: int) -> NDArray[np.uint8]:
        """Return copies of ``images`` (uint8 N×C×H×W) that show grey under the numbered masks."""
        masked = images.copy()
        for top, left, bottom, right in self.boxes[list(numbers)].tolist():
            masked[:, :, top:bottom, left:right] = GREY
        return masked


def covering_masks(image_size: tuple[int, int], patch_px: int, *, per_axis: int = 6) -> MaskSet:
    """Return ``per_axis`` × ``per_axis`` masks, evenly placed, that hide every patch of a size.

    Along a side of n pixels they are s = ceil((n − p + 1) / k) apart and p + s − 1 long
    (PatchCleanser, section 4.1); those that would leave the image are moved back into it. With more
    masks, each is smaller and hides less of an image, but there are more passes: pairs grow with
    k⁴.

    Args:
        image_size: height and width, in pixels.
        patch_px: side of the patch p, 1 to the shorter side.
        per_axis: masks along each side k, at least 2.

    Raises:
        InputError: a patch that does not fit the images.
        UsageError: fewer than 2 masks per side.

    Example:
        >>> masks = covering_masks((32, 32), 5, per_axis=6)
        >>> len(masks), masks.mask_px
        (36, (9, 9))
    """
    if per_axis < 2:
        raise UsageError(f"expected 2 or more masks along a side, got {per_axis}")
    if not 1 <= patch_px <= min(image_size):
        raise InputError(
            f"a patch of {patch_px} px does not fit images of {image_size[0]}×{image_size[1]} px"
        )
    rows, columns = (_spans(side, patch_px, per_axis) for side in image_size)
    boxes = [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    return MaskSet(patch_px=patch_px, image_size=image_size, boxes=np.array(boxes, dtype=np.int64))


def _spans(side: int, patch: int, count: int) -> list[tuple[int, int]]:
    """First pixel and end of each mask along one side; fewer than ``count`` where those suffice."""
    step = -(-(side - patch + 1) // count)
    length = patch + step - 1
    # A patch that starts at t lies in the mask that starts at the last multiple of the step ≤ t.
    starts = sorted({min(start, side - length) for start in range(0, side - patch + 1, step)})
    return [(start, start + length) for start in starts]


def certified(
    predict: Predict,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    masks: MaskSet,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.bool_]:
    """Return for each image whether its label is predicted under every pair of masks.

    An image is evaluated until one prediction is wrong, so that a network that certifies few images
    is fast.

    Args:
        predict: the model.
        images: uint8, N×C×H×W.
        labels: integers, N.
        masks: for this size of images.
        progress: called with the number of finished pairs.

    Returns:
        bool, N.

    Raises:
        InputError: images of another size than the masks are for.
        NothingToEvaluate: N is 0.
    """
    _check(images, masks)
    holds = np.ones(len(images), dtype=np.bool_)
    # Each mask alone first: it is cheap, and most images that fail do so here.
    pairs = [(i, i) for i in range(len(masks))]
    pairs += [(i, j) for i in range(len(masks)) for j in range(i)]
    for done, pair in enumerate(pairs, start=1):
        rows = holds.nonzero()[0]
        if len(rows) == 0:
            progress(len(pairs), len(pairs))
            break
        holds[rows] = predict(masks.over(images[rows], *pair)) == labels[rows]
        progress(done, len(pairs))
    return holds


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedPredictions:
    """The result of masked inference: ``classes``, int64 N, and the model's ``passes``, int64 N."""

    classes: NDArray[np.int64]
    passes: NDArray[np.int64]


def predict_masked(
    predict: Predict,
    images: NDArray[np.uint8],
    masks: MaskSet,
    *,
    stepped: Callable[[], None] = lambda: None,
) -> MaskedPredictions:
    """Classify by double masking: the inference that the certificates are for.

    First round: each mask alone. If all agree, that is the class. Otherwise each mask that
    disagrees with the majority is combined with every mask in turn. If its class agrees with all of
    these predictions, it has hidden a patch, and its class wins. If there is no such mask, the
    majority's class wins (PatchCleanser, algorithm 1).

    Args:
        predict: the model.
        images: uint8, N×C×H×W.
        masks: for this size of images.
        stepped: called once for each mask of either round.

    Raises:
        InputError: images of another size than the masks are for.
        NothingToEvaluate: N is 0.
    """
    _check(images, masks)
    count = len(masks)
    alone = np.empty((len(images), count), dtype=np.int64)
    for i in range(count):
        alone[:, i] = predict(masks.over(images, i))
        stepped()
    passes = np.full(len(images), count, dtype=np.int64)
    classes = np.array([np.bincount(row).argmax() for row in alone], dtype=np.int64)
    open_still = (alone != classes[:, None]).any(axis=1)
    majority = classes.copy()
    for i in range(count):
        stepped()
        rows = (open_still & (alone[:, i] != majority)).nonzero()[0]
        if len(rows) == 0:
            continue
        passes[rows] += count
        agrees = np.ones(len(rows), dtype=np.bool_)
        for j in range(count):
            agrees &= predict(masks.over(images[rows], i, j)) == alone[rows, i]
        found = rows[agrees]
        classes[found] = alone[found, i]
        open_still[found] = False
    return MaskedPredictions(classes=classes, passes=passes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Certification:
    """Masked inference and its certificates on images, each a share of all of them.

    Attributes:
        masks: the masks used.
        clean: right without a mask.
        masked: right by masked inference, without a patch.
        certified: right by masked inference, for any content and place of a patch of the size.
        mean_passes: of the model for one masked inference.
        holds: bool N, which images are certified.
        classes: int64 N, the class of each by masked inference without a patch.
    """

    masks: MaskSet
    clean: Share
    masked: Share
    certified: Share
    mean_passes: float
    holds: NDArray[np.bool_]
    classes: NDArray[np.int64]

    @property
    def asr_at_most(self) -> Share | None:
        """As :func:`asr_at_most`."""
        return asr_at_most(self.masked, self.certified)


def asr_at_most(masked: Share, certified: Share) -> Share | None:
    """The largest attack success rate that any attack with such a patch can have against masked
    inference: of the images that are right without a patch (``masked``), those without a
    certificate.

    None where no image is right.
    """
    right = masked["k"]
    return share(right - certified["k"], right) if right else None


def certify(
    predict: Predict,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    masks: MaskSet,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Certification:
    """Return the results of masked inference and its certificates; arguments as :func:`certified`.

    ``progress`` is called with the number of finished steps of ``masks.steps``.
    """
    done = 0

    def stepped(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(done, masks.steps)

    holds = certified(
        predict, images, labels, masks, progress=lambda pairs, _: stepped(pairs - done)
    )
    inferred = predict_masked(predict, images, masks, stepped=stepped)
    return Certification(
        masks=masks,
        clean=share_of(predict(images) == labels),
        masked=share_of(inferred.classes == labels),
        certified=share_of(holds),
        mean_passes=float(inferred.passes.mean()),
        holds=holds,
        classes=inferred.classes,
    )


def attack_masked(
    predict: Predict,
    found: Certification,
    rows: NDArray[np.integer[Any]],
    patched: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    target: int | None = None,
    *,
    stepped: Callable[[], None] = lambda: None,
) -> AttackSuccess:
    """Return the success of a patch against masked inference, and check the certificates with it.

    Args:
        predict: the model that was certified.
        found: the result of certifying it.
        rows: int64 M, which of the certified images these are.
        patched: uint8 M×C×H×W, the same images with a patch of the masks' size or a smaller one.
        labels: integers M.
        target: the class that a targeted patch should cause.
        stepped: called once for each mask of either round.

    Raises:
        NothingToEvaluate: masked inference classifies none of them correctly without the patch.
        InputError: the patch changes the answer on an image that is certified, to its target or
            to another class.
    """
    answered = predict_masked(predict, patched, found.masks, stepped=stepped)
    if (broken := found.holds[rows] & (answered.classes != labels)).any():
        raise InputError(
            f"a patch changes the answer on {int(broken.sum())} images that are certified "
            f"against it, the first of which is number {int(rows[broken.argmax()])}: either the "
            "model does not give the same answer to the same image, or the patch is larger than "
            "the certificate's"
        )
    return attack_success(found.classes[rows], answered.classes, labels, target)


def _check(images: NDArray[np.uint8], masks: MaskSet) -> None:
    if len(images) == 0:
        raise NothingToEvaluate("expected at least one image to certify, got none")
    if images.shape[2:] != masks.image_size:
        raise InputError(
            f"expected images of {masks.image_size[0]}×{masks.image_size[1]} px, as the masks "
            f"are for, got {images.shape[2]}×{images.shape[3]} px"
        )
