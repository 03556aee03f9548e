"""`qadtr.export` and `qadtr.lower`: integer model files, each proved before it takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.budget import Overrides
from export.canonical import ImageForm
from export.export_run import ExportedModel, ExportSettings, export_run
from export.lower_file import LoweredFile, LowerSettings, lower_file
from qadtr.functions.inputs import Run, opened
from qadtr.origin import provenance
from training.data import Images, ImageSet
from training.data.subset import chosen_indices


def export(
    run: Run,
    images: Images | None = None,
    *,
    bits: Sequence[int] | None = None,
    targets: Sequence[str] = ("onnxruntime",),
    count: int = 500,
    storage: str | None = None,
    tune: str | None = None,
    overrides: Overrides | None = None,
) -> list[ExportedModel]:
    """Write a run's network as one file for each target and bit-width.

    Args:
        run: a run, or its folder.
        images: images whose hold-out is used for the proofs; None takes the run's own.
        bits: bit-widths; 32 is the float baseline; None: all.
        targets: "onnxruntime" (all integers), "litert", "tensorrt", "qcdq", "qonnx".
        count: largest number of hold-out images.
        storage: weights in the onnxruntime file, "low-bit" (None) or "int8".
        tune: processor whose kernels it is laid out for, "any" (None) or "amx".
        overrides: changes to the budgets of the targets.

    Returns:
        What was written and proved: ``lowered.path`` and ``lowered.size_bytes`` of each file, its
        ``certificate`` and ``proof``.

    Raises:
        InputError: the network lacks a bit-width, or a target is unknown.
        CertificateError: a layer would run in float.
        ParityError: a code differs.
        ExportError: some of several files failed; its ``made`` lists the others, ``failures`` why.

    Example:
        >>> model, = qadtr.export("runs/own", training_set, bits=[4])
        >>> model.lowered.path.name, model.certificate.ok, model.proof.ok
        ('onnxruntime-4.onnx', True, True)
    """
    folder = opened(run, images)
    holdout = folder.images(images, "holdout").images
    return export_run(
        folder,
        None if bits is None else list(bits),
        holdout[chosen_indices(len(holdout), min(count, len(holdout)))],
        ExportSettings(
            targets=tuple(targets),
            storage=storage,
            tune=tune,
            overrides=Overrides() if overrides is None else overrides,
        ),
        provenance(seed=folder.seed),
    )


def lower(
    model: Path | str,
    out: Path | str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    images: ImageSet | NDArray[np.uint8] | Path | None = None,
    count: int = 64,
    target: str = "onnxruntime",
    storage: str | None = None,
    least_agreement: float | None = None,
) -> LoweredFile:
    """Turn a quantized ONNX file of any origin into an all-integer file.

    Args:
        model: QONNX (Brevitas, FINN) or Q/DQ of int8 and uint8.
        out: the file to write, not the input; a sidecar and a certificate are written beside it.
        mean: of each channel or of all, with ``std``: the file takes (byte / 255 - mean) / std;
            None: it takes the byte, 0…255.
        std: above 0.
        size: (height, width) of the images, where the file leaves it open.
        images: images for the proof: a set, uint8 N×C×H×W or N×H×W×C, or an .npz; None: noise.
        count: number of images for the proof, taken from the start.
        target: "onnxruntime", "qcdq" or "tensorrt".
        storage: storage of the weights, "low-bit" (None) or "int8".
        least_agreement: share of the images, 0…1, that must keep the source's class; None: 0.95,
            and no requirement for noise.

    Returns:
        What was written and proved; ``ok`` states whether it runs in integers throughout.

    Raises:
        LoweringError: an operator is not supported; the message names the layers.
        InputError: the file or the images are damaged.

    Example:
        >>> source, = qadtr.export("runs/own", training_set, bits=[4], targets=["qonnx"])
        >>> qadtr.lower(source.lowered.path, "integer.onnx", images=test_set).ok
        True
    """
    form = ImageForm.of(mean, std, size)
    settings = LowerSettings(
        target=target,
        storage=storage,
        images=images.images if isinstance(images, ImageSet) else images,
        count=count,
        least_agreement=least_agreement,
    )
    return lower_file(Path(model), Path(out), form, settings)
