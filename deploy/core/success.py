"""The one definition of attack success, clean accuracy and robust accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, NothingToEvaluate
from .share import Share, share_of


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackSuccess:
    """How often a patch won.

    Attributes:
        share: the ASR: of the images that count, those on which the patch won.
        eligible: bool, N: which images count.
        success: bool, N: on which of them the patch won; False where not eligible.
    """

    share: Share
    eligible: NDArray[np.bool_]
    success: NDArray[np.bool_]


def attack_success(
    clean_predictions: NDArray[np.integer[Any]],
    patched_predictions: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    target: int | None = None,
    *,
    also: NDArray[np.bool_] | None = None,
) -> AttackSuccess:
    """Return the attack success rate (ASR).

    Of the images that this model on this engine classifies correctly without the patch (and,
    for a targeted patch, whose label is not the target), the share whose prediction the patch
    changes (untargeted) or turns into the target (targeted).

    Args:
        clean_predictions: classes without the patch, integers, N.
        patched_predictions: classes with the patch, N.
        labels: the true classes, N.
        target: the class that a targeted patch should cause.
        also: bool, N: count only these (the common set, for instance).

    Raises:
        InputError: not integer vectors of one length.
        NothingToEvaluate: no image is eligible.
    """
    _check_classes(
        clean_predictions=clean_predictions, patched_predictions=patched_predictions, labels=labels
    )
    eligible = clean_predictions == labels
    if target is not None:
        eligible &= labels != target
    if also is not None:
        if also.dtype != np.bool_ or also.shape != labels.shape:
            raise InputError(
                f"expected 'also' as bool of shape {labels.shape}, got {also.dtype} {also.shape}"
            )
        eligible &= also
    return _rate(eligible, _won(clean_predictions, patched_predictions, target))


def attack_success_over_all_images(
    clean_predictions: NDArray[np.integer[Any]],
    patched_predictions: NDArray[np.integer[Any]],
    target: int | None = None,
) -> AttackSuccess:
    """Return the share of *all* images whose prediction the patch changes or turns into the target.

    This is the secondary figure next to :func:`attack_success`: images that were wrong before count
    too, and an image that is predicted as the target without the patch is not a success.

    Raises:
        InputError: not integer vectors of one length.
        NothingToEvaluate: there are no images.
    """
    _check_classes(clean_predictions=clean_predictions, patched_predictions=patched_predictions)
    everything = np.ones(clean_predictions.shape, dtype=np.bool_)
    return _rate(everything, _won(clean_predictions, patched_predictions, target))


def accuracy(predictions: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> Share:
    """Return the share of right predictions: clean or robust accuracy, or, where the labels are
    another model's predictions, the agreement.

    Raises:
        InputError: not integer vectors of one length.
        NothingToEvaluate: there are no images.
    """
    _check_classes(predictions=predictions, labels=labels)
    return share_of(predictions == labels)


def _won(
    clean: NDArray[np.integer[Any]], patched: NDArray[np.integer[Any]], target: int | None
) -> NDArray[np.bool_]:
    changed: NDArray[np.bool_] = patched != clean
    return changed if target is None else changed & (patched == target)


def _rate(eligible: NDArray[np.bool_], won: NDArray[np.bool_]) -> AttackSuccess:
    if not eligible.any():
        raise NothingToEvaluate(
            f"none of the {len(eligible)} images counts for the attack success rate: each is "
            "misclassified without the patch, labelled as the target, or outside the common set"
        )
    success = eligible & won
    return AttackSuccess(share=share_of(success[eligible]), eligible=eligible, success=success)


def _check_classes(**vectors: NDArray[Any]) -> None:
    lengths = set()
    for name, vector in vectors.items():
        if not isinstance(vector, np.ndarray) or vector.dtype.kind not in "iu" or vector.ndim != 1:
            is_array = isinstance(vector, np.ndarray)
            came = f"{vector.dtype} {vector.shape}" if is_array else type(vector).__name__
            raise InputError(f"expected {name} as a vector of integer classes, got {came}")
        lengths.add(len(vector))
    if len(lengths) > 1:
        came = ", ".join(f"{name}: {len(vector)}" for name, vector in vectors.items())
        raise InputError(f"expected vectors of one length, got {came}")
