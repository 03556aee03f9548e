"""What a bundle is made of: models, patch sets, images, golden data and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core.attack_checks import AttackVerdict
from .core.patch_origin import TriedOn
from .core.patch_set import PatchSet
from .machine_proof import DeviceReports


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleModel:
    """The model for one engine.

    Attributes:
        path: the file.
        certificate: engine, machine and kinds as in the manifest; None for an engine without.
        max_logit_difference: budget against the golden logits; 0 is bit for bit.
        max_flips: golden images whose class may differ.
        logits_identical_on: machine architectures on which the golden logits were reproduced.
        golden_logits: float32 G×C, of the numpy reference of this very file; None: the bundle's
            own, those of the all-integer file.
        device_reports: further machines, proved by their reports; None has no such proof.
        target: "adopted" for a foreign file; None: the engine's own.
    """

    path: Path
    certificate: Mapping[str, Any] | None
    max_logit_difference: float = 0.0
    max_flips: int = 0
    logits_identical_on: tuple[str, ...] = ()
    golden_logits: NDArray[np.float32] | None = None
    device_reports: DeviceReports | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class BundlePatch:
    """One patch set of the suite.

    Attributes:
        patch_set: its ``image_indices`` refer to the split of the images.
        lab: int64 M, classes of the lab's network with the patch.
        gated: whether its ASR decides.
    """

    patch_set: PatchSet
    lab: NDArray[np.int64]
    gated: bool = True


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The thresholds of the device, shares of 0 to 1.

    A drift of None requires nothing; a clean accuracy of None requires nearly the lab's own:
    :func:`deploy.device.thresholds.default_min_clean`.
    """

    max_asr: float
    max_drift: float | None = 0.02
    min_clean: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleContents:
    """The parts of a bundle.

    Attributes:
        name: one line.
        bit_width: of the hidden layers.
        classes: their names.
        models: by engine.
        images: uint8 N×3×H×W; clean accuracy is over these.
        labels: int64 N.
        indices: int64 N, ascending: which images of the split they are.
        images_about: name, split and digest of the split.
        golden_inputs: uint8 G×3×H×W.
        golden_logits: float32 G×C, of the integer reference, or of the ``golden_engine``.
        golden_codes: uint8 G×…, by tensor name, of the integer reference.
        lab_engine: the engine of the lab's predictions.
        lab_clean: int64 N.
        patches: at least one.
        thresholds: of the gate.
        random_floor_seed: of the noise patches.
        golden_engine: the lab's engine that gave the golden logits; None: the numpy reference did.
        attack_checks: verdict of the lab's checks of its attacks on this model; None: not checked.
        provenance: from ``deploy.core.records.provenance``.
    """

    name: str
    bit_width: int
    classes: Sequence[str]
    models: Mapping[str, BundleModel]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    images_about: TriedOn
    golden_inputs: NDArray[np.uint8]
    golden_logits: NDArray[np.float32]
    golden_codes: Mapping[str, NDArray[np.uint8]]
    lab_engine: str
    lab_clean: NDArray[np.int64]
    patches: Sequence[BundlePatch]
    thresholds: Thresholds
    random_floor_seed: int = 0
    golden_engine: str | None = None
    attack_checks: AttackVerdict | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
