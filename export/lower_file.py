"""The stage "lower": any quantized file to an integer file, with certificate and parity."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, QadtrError, UsageError
from deploy.core.images import check_images
from deploy.core.npz import read_npz
from deploy.core.strict_json import write_json
from export.budget import Budget
from export.canonical import ImageForm
from export.certificate import Certificate, certify
from export.lowering import Lowered, lower
from export.origin import write_sidecar
from export.targets import ONNXRUNTIME

logger = logging.getLogger(__name__)

AGREEMENT = 0.95
"""Least share of equal classes on given images; a source rounds its float32 sums, an integer file
does not."""

CERTIFIED_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class LowerSettings:
    """How to lower a file, and what to prove it on.

    Attributes:
        target: one of :data:`export.targets.TARGETS`.
        storage: of the weights; None: the target's own.
        images: an ``.npz`` with ``images``, or uint8 N×C×H×W or N×H×W×C; None: noise.
        count: of the images, the first ones.
        least_agreement: share of the images that must keep the source's class; None: 0.95 on given
            images, no bound on noise.
    """

    target: str = ONNXRUNTIME.name
    storage: str | None = None
    images: Path | NDArray[np.uint8] | None = None
    count: int = 64
    least_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--count expects 1 or more, got {self.count}")
        share = self.least_agreement
        if share is not None and not 0.0 <= share <= 1.0:
            raise UsageError(f"--least-agreement expects a share of 0 to 1, got {share}")


@dataclass(frozen=True, kw_only=True)
class LoweredFile:
    """A lowered file, and for the all-integer target its certificate."""

    lowered: Lowered
    certificate: Certificate | None

    @property
    def ok(self) -> bool:
        """Whether it is integer throughout, if the target is all-integer."""
        return self.certificate is None or self.certificate.ok

    def summary(self) -> str:
        """The proofs as text."""
        lines = [f"{self.lowered.path}: {self.lowered.size_bytes:,} bytes"]
        if self.lowered.source is None:
            lines.append(
                "never run: onnxruntime is not installed, so nothing is proved about the file"
            )
        else:
            lines.append(self.lowered.source.summary())
        if self.certificate is not None:
            lines.append("every code of the engine is that of the numpy reference")
            lines.append(self.certificate.summary())
        return "\n".join(lines)


def lower_file(model: Path, out: Path, form: ImageForm, settings: LowerSettings) -> LoweredFile:
    """Lower ``model`` to ``out``, with a sidecar and a certificate beside it.

    Raises:
        InputError: the file or the images are damaged, or not what is expected; ``out`` is
            ``model``.
        LoweringError, SourceError: as :func:`export.lowering.lower`.
    """
    if out.exists() and model.exists() and out.samefile(model):
        raise UsageError(f"--out {out} is the input file; give another file")
    images = None if settings.images is None else _images(settings.images, settings.count)
    least = settings.least_agreement
    if least is None:
        least = 0.0 if images is None else AGREEMENT
    budget = Budget(logits=None, flips=1.0 - least)
    lowered = lower(
        model,
        out,
        target=settings.target,
        storage=settings.storage,
        form=form,
        images=images,
        budget=budget,
    )
    certificate = None
    if settings.target == ONNXRUNTIME.name and lowered.source is not None:
        sample = None if images is None else images[:CERTIFIED_IMAGES]
        certificate = certify(out, sample)
        write_json(out.with_suffix(".certificate.json"), certificate.to_json())
    write_sidecar(
        out,
        {
            "target": settings.target,
            "sha256": lowered.sha256,
            "size_bytes": lowered.size_bytes,
            "source": model.name,
            "storage": lowered.storage,
            "mean": form.mean,
            "std": form.std,
            "layers": list(lowered.log),
            "guarantees": list(lowered.guarantees),
            "comparison": None if lowered.source is None else lowered.source.to_json(),
        },
    )
    return LoweredFile(lowered=lowered, certificate=certificate)


def _images(given: Path | NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The first images that were given, or of an .npz, uint8 N×C×H×W."""
    if isinstance(given, Path):
        arrays = read_npz(given)
        if "images" not in arrays:
            raise InputError(f"{given} has no `images`; it has {', '.join(arrays) or 'nothing'}")
        try:
            return _images(arrays["images"], count)
        except QadtrError as error:
            raise type(error)(f"{given}: {error}") from error
    images = given[:count] if given.ndim else given
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(images)
    check_images(images)
    found: NDArray[np.uint8] = images
    return found
