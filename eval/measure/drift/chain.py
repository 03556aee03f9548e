"""The chain from the lab's network to the device, with the predictions of every stage.

Each stage differs from the one before in one thing:

======================  =======================  ==========================
stage                   what predicts            what it is shown
======================  =======================  ==========================
``lab``                 fake-quantized network   the patch as floats, pasted
``rounding``            fake-quantized network   the patch as bytes, pasted
``preprocessing``       fake-quantized network   the bytes that the device fed
``export``              reference of the file    the same
``engine``              engine                   the same
======================  =======================  ==========================

Where a stage has the same inputs as the stage before, and nothing else differs, it takes the same
predictions: nothing runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.core.errors import InputError, QadtrError
from deploy.core.images import check_images
from deploy.core.npz import read_npz
from deploy.device.suite import Suite
from eval.attacks.predictions import evaluation_mode, predict
from eval.measure.patch_measures import Classes
from eval.measure.subject import Predictor
from export.reference.network import Reference
from training.patching import paste
from training.prediction import SwitchableNetwork, device_of

Bytes = NDArray[np.uint8]
_BATCH = 250


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """The predictions of one stage.

    Attributes:
        name, how: as in ``eval.measure.drift.attribution.StageOutcome``.
        clean: int64 N, over the suite's images.
        patched: int64 M for each patch of the suite.
        clean_changed: bool N, images whose bytes differ from those at the stage before; None where
            the stage has the same inputs by construction.
        patched_changed: bool M for each patch.
    """

    name: str
    how: str
    clean: Classes
    patched: tuple[Classes, ...]
    clean_changed: NDArray[np.bool_] | None = None
    patched_changed: tuple[NDArray[np.bool_], ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceInputs:
    """The bytes that a device actually fed its engine.

    Attributes:
        clean: uint8 N×3×H×W, in the order of the suite.
        patched: uint8 M×3×H×W for each patch of the suite.
    """

    clean: Bytes
    patched: tuple[Bytes, ...]

    @classmethod
    def read(cls, path: Path, suite: Suite) -> Self:
        """Read them from an npz file with the arrays ``clean``, ``patched-0``, ``patched-1``, ….

        Raises:
            InputError: an array is missing, unknown, or of another shape or type than the suite's.
        """
        names = [f"patched-{number}" for number in range(len(suite.patches))]
        arrays = read_npz(path)
        if set(arrays) != {"clean", *names}:
            raise InputError(
                f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}; expected clean, "
                f"{', '.join(names)}: the bytes fed to the engine, in the bundle's order"
            )
        for name, count in [
            ("clean", len(suite.images)),
            *((name, len(one.rows)) for name, one in zip(names, suite.patches, strict=True)),
        ]:
            try:
                check_images(arrays[name], expected_shape=_shape(suite))
            except QadtrError as error:
                raise type(error)(f"{path}, {name}: {error}") from error
            if len(arrays[name]) != count:
                raise InputError(f"{path}: {name} has {len(arrays[name])} images, not {count}")
        return cls(clean=arrays["clean"], patched=tuple(arrays[name] for name in names))


def read_float_patches(path: Path, suite: Suite) -> dict[int, NDArray[np.float32]]:
    """Read patches as they were before rounding to bytes, by their number in the suite.

    The npz file has ``patch-0``, ``patch-1``, …, float32 P×3×h×w in pixel values, each of the shape
    of the bundle's patch; for a patch that it lacks, the bytes are used.

    Raises:
        InputError: an unknown array, one of another shape or type, or one for a patch that was
            posed for each image, whose bytes are not a rounding of it.
    """
    known = {f"patch-{number}": number for number in range(len(suite.patches))}
    found: dict[int, NDArray[np.float32]] = {}
    for name, array in read_npz(path).items():
        if name not in known:
            raise InputError(f"{path} has an array {name!r}; expected {', '.join(known)}")
        patch_set = suite.patches[known[name]].patch_set
        if patch_set.mask.ndim == 3:
            raise InputError(
                f"{path}: {name} is for {patch_set.name}, which has a mask for each image; leave "
                "it out: only a patch that is pasted as it is has floats before its bytes"
            )
        wanted = patch_set.patch.shape
        if array.dtype != np.float32 or array.shape != wanted or not np.isfinite(array).all():
            raise InputError(
                f"{path}: expected {name} as finite float32 {wanted}, got {array.dtype} "
                f"{array.shape}"
            )
        found[known[name]] = array
    return found


def pasted(suite: Suite, number: int) -> Bytes:
    """One patch on all of its images, as bytes: uint8 M×3×H×W."""
    patch = suite.patches[number]
    return patch.paste(suite.images, np.arange(len(patch.rows)))


def run_chain(
    suite: Suite,
    *,
    network: SwitchableNetwork,
    bits: int,
    reference: Reference[Any],
    engine: Predictor,
    float_patches: Mapping[int, NDArray[np.float32]] | None = None,
    device_inputs: DeviceInputs | None = None,
) -> Iterator[Stage]:
    """Yield the five stages, each when it is finished.

    Args:
        network: the lab's, run at ``bits``, the bundle's bit-width.
        reference, engine: of the bundle's model file for that engine.
        float_patches: by number, float32 P×3×h×w, as before rounding; patches that it lacks are
            taken as bytes.
        device_inputs: None for a device that feeds the image's bytes, as the validator does.
    """
    numbers = range(len(suite.patches))
    floats = float_patches or {}
    by_lab = [pasted(suite, number) for number in numbers]
    fed = DeviceInputs(clean=suite.images, patched=tuple(by_lab))
    device = fed if device_inputs is None else device_inputs

    def ask(images: Bytes) -> Classes:
        return predict(network, images, bits)

    def refer(images: Bytes) -> Classes:
        return np.asarray(reference.run(images).argmax(axis=1), np.int64)

    clean = ask(suite.images)
    bytes_patched = [ask(images) for images in by_lab]
    yield Stage(
        name="lab",
        how=f"fake-quantized network at {bits} bits, the patch "
        + ("as floats" if floats else "as the bytes that it is kept in"),
        clean=clean,
        patched=tuple(
            _ask_floats(suite, number, floats[number], network, bits)
            if number in floats
            else bytes_patched[number]
            for number in numbers
        ),
    )
    nothing = np.zeros(len(suite.images), np.bool_)
    yield Stage(
        name="rounding",
        how="the same, the patched image in bytes",
        clean=clean,
        patched=tuple(bytes_patched),
        clean_changed=nothing,
        patched_changed=tuple(_rounded(suite, number, floats.get(number)) for number in numbers),
    )
    clean_changed = _differ(fed.clean, device.clean)
    changed = tuple(_differ(*both) for both in zip(fed.patched, device.patched, strict=True))
    yield Stage(
        name="preprocessing",
        how="the same, on the bytes that the device fed its engine"
        if device_inputs is not None
        else "the same: the bytes are the engine's input, there is nothing to preprocess",
        clean=_again(ask, device.clean, clean_changed, clean),
        patched=tuple(
            _again(ask, device.patched[number], changed[number], bytes_patched[number])
            for number in numbers
        ),
        clean_changed=clean_changed,
        patched_changed=changed,
    )
    yield Stage(
        name="export",
        how="numpy reference of the exported file",
        clean=refer(device.clean),
        patched=tuple(refer(images) for images in device.patched),
    )
    yield Stage(
        name="engine",
        how=f"the exported file in {engine.name}, here",
        clean=engine.predict(device.clean),
        patched=tuple(engine.predict(images) for images in device.patched),
    )


def _ask_floats(
    suite: Suite,
    number: int,
    patch: NDArray[np.float32],
    network: SwitchableNetwork,
    bits: int,
) -> Classes:
    one = suite.patches[number]
    device, found = device_of(network), []
    mask = torch.from_numpy(one.patch_set.mask)
    with evaluation_mode(network), network.at(bits), torch.no_grad():
        for first in range(0, len(one.rows), _BATCH):
            rows = slice(first, first + _BATCH)
            pixels = torch.from_numpy(suite.images[one.rows[rows]]).float()
            own = torch.from_numpy(patch if len(patch) == 1 else patch[rows])
            positions = torch.from_numpy(one.patch_set.positions[rows])
            shown = paste(pixels, own, mask, positions).to(device)
            found.append(network(shown).argmax(dim=1).cpu().numpy())
    return np.concatenate(found).astype(np.int64)


def _rounded(suite: Suite, number: int, patch: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """Which patched images the rounding to bytes changes: those whose patch changes."""
    one = suite.patches[number]
    if patch is None:
        return np.zeros(len(one.rows), np.bool_)
    gap = (patch != one.patch_set.patch) & one.patch_set.mask
    changed: NDArray[np.bool_] = gap.any(axis=(1, 2, 3))
    return np.broadcast_to(changed, (len(one.rows),)) if len(changed) == 1 else changed


def _differ(first: Bytes, second: Bytes) -> NDArray[np.bool_]:
    if first is second:
        return np.zeros(len(first), np.bool_)
    return np.asarray((first != second).any(axis=(1, 2, 3)), np.bool_)


def _again(
    ask: Callable[[Bytes], Classes], images: Bytes, changed: NDArray[np.bool_], known: Classes
) -> Classes:
    """Predictions of images, computed again for those that changed."""
    if not changed.any():
        return known
    found = known.copy()
    found[changed] = ask(images[changed])
    return found


def _shape(suite: Suite) -> tuple[int, int, int]:
    channels, height, width = suite.images.shape[1:]
    return channels, height, width
