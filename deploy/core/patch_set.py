"""Patches as files: NAME.npz with the arrays and NAME.json with their description."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import sha256_of, sha256_of_bytes, write_atomic
from .npz import npz_bytes, read_npz
from .pasting import check_patch, paste
from .patch_origin import PatchOrigin
from .strict_json import json_bytes, read_json

FORMAT_VERSION = 1
"""Of the pair of files; another version is refused."""

Kind = Literal["universal", "per-image"]
KINDS: tuple[Kind, ...] = ("universal", "per-image")

_ARRAYS: dict[str, np.dtype[Any]] = {
    "patch": np.dtype(np.uint8),
    "mask": np.dtype(np.bool_),
    "positions": np.dtype(np.int32),
    "image_indices": np.dtype(np.int64),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchSet:
    """One patch for many images, or one patch per image, with everything that pasting needs.

    Attributes:
        name: its name in tables.
        kind: "universal" (P = 1; P = N where one patch is shown turned or scaled differently on
            each image, which needs a mask for each) or "per-image" (P = N).
        patch: uint8, P×3×h×w.
        mask: bool, h×w, or N×h×w where each image has its own.
        positions: int32, N×2, (top, left) in pixels, one row per image.
        image_indices: int64, N: which images of the split the rows belong to, all different.
        target: the class that the patch should cause; None where any wrong class will do.
        origin: how it was made.

    Raises:
        InputError: on construction, if the parts do not fit together.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), np.uint8)
        >>> one_for_all = qadtr.PatchSet(
        ...     name="noise", kind="universal", patch=noise, mask=np.ones((4, 4), np.bool_),
        ...     positions=np.zeros((2, 2), np.int32), image_indices=np.arange(2))
        >>> one_for_all.paste_on(np.zeros((2, 3, 16, 24), np.uint8)).shape
        (2, 3, 16, 24)
    """

    name: str
    kind: Kind
    patch: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    positions: NDArray[np.int32]
    image_indices: NDArray[np.int64]
    target: int | None = None
    origin: PatchOrigin = field(default_factory=PatchOrigin)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"expected the patch set's name as text, got {self.name!r}")
        if self.kind not in KINDS:
            raise InputError(
                f"{self.name}: kind {self.kind!r} is unknown; known: {', '.join(KINDS)}"
            )
        for name, dtype in _ARRAYS.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"{self.name}: expected {name} as {dtype}, got {came}")
        try:
            check_patch(self.patch, self.mask, self.positions)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        count = self.positions.shape[0]
        rendered = self.mask.ndim == 3
        expected = 1 if self.kind == "universal" and not rendered else count
        if count == 0 or self.patch.shape[0] != expected:
            raise InputError(
                f"{self.name}: a {self.kind} patch set for {count} images "
                f"has {expected} patches, got {self.patch.shape[0]}"
            )
        indices = self.image_indices
        if indices.shape != (count,) or indices.min() < 0 or np.unique(indices).size != count:
            raise InputError(
                f"{self.name}: expected {count} different image indices of 0 or more, "
                f"got shape {indices.shape}"
            )
        if int(self.positions.min()) < 0:
            raise InputError(f"{self.name}: expected positions of 0 or more, got a negative one")
        if self.target is not None and (
            not isinstance(self.target, int) or isinstance(self.target, bool) or self.target < 0
        ):
            raise InputError(
                f"{self.name}: expected a class or None as target, got {self.target!r}"
            )

    @property
    def area_px(self) -> int:
        """Pixels under the mask; where each image has its own, their mean, rounded."""
        return round(float(self.mask.sum(axis=(-2, -1)).mean()))

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the patch's box."""
        return self.mask.shape[-2], self.mask.shape[-1]

    def on_images(self, indices: NDArray[np.int64]) -> PatchSet:
        """Return the patch set for those of its images that are among ``indices``, int64 K.

        Raises:
            InputError: none of its images is among them.
        """
        rows = np.flatnonzero(np.isin(self.image_indices, indices))
        if not len(rows):
            raise InputError(
                f"{self.name}: none of its images is among the {len(indices)} chosen ones"
            )
        each = self.mask.ndim == 3 or self.kind == "per-image"
        return replace(
            self,
            patch=self.patch[rows] if each else self.patch,
            mask=self.mask[rows] if self.mask.ndim == 3 else self.mask,
            positions=self.positions[rows],
            image_indices=self.image_indices[rows],
        )

    def area_share(self, height: int, width: int) -> float:
        """Return the share, 0…1, of a height×width image that the mask covers."""
        return self.area_px / (height * width)

    def paste_on(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images with the patch on them.

        Args:
            images: uint8, N×3×H×W, *already picked*: row i is image ``image_indices[i]`` of the
                split (``split_images[patch_set.image_indices]``).

        Raises:
            InputError: another number of images than ``image_indices``, or a patch that does not
                fit.
        """
        if len(images) != len(self.image_indices):
            raise InputError(
                f"{self.name} is for {len(self.image_indices)} images, got {len(images)}; "
                "pick them with images[patch_set.image_indices]"
            )
        try:
            return paste(images, self.patch, self.mask, self.positions)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error


def _sidecar(path: Path) -> Path:
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"a patch set is a .npz file with a .json beside it, got {path}")
    return path.with_suffix(".json")


def patch_set_bytes(patch_set: PatchSet) -> tuple[bytes, bytes]:
    """Return the bytes of NAME.npz and of NAME.json; equal for equal patch sets.

    Raises:
        InputError: an origin that JSON cannot hold.
    """
    data = npz_bytes({name: getattr(patch_set, name) for name in _ARRAYS})
    about = {
        "format": "qadtr-patch-set",
        "format_version": FORMAT_VERSION,
        "sha256": sha256_of_bytes(data),
        "name": patch_set.name,
        "kind": patch_set.kind,
        "target": patch_set.target,
        "area_px": patch_set.area_px,
        "size_px": list(patch_set.size_px),
        "images": len(patch_set.image_indices),
        "provenance": patch_set.origin.to_json(),
    }
    return data, json_bytes(about)


def write_patch_set(path: Path, patch_set: PatchSet) -> None:
    """Write ``path`` (NAME.npz, deterministic bytes) and NAME.json in the same folder.

    The sidecar is written first: a kill between the two leaves no patch file, or, over an older
    pair, two files whose hashes do not match, which reading refuses.

    Raises:
        InputError: not a ``.npz`` path, not writable, or an origin that JSON cannot hold.
    """
    sidecar = _sidecar(path)
    data, about = patch_set_bytes(patch_set)
    write_atomic(sidecar, about)
    write_atomic(path, data)


def patch_files_of(folder: Path) -> list[Path]:
    """Return the NAME.npz files of the patch sets in a folder, sorted by name; empty where it is
    missing.

    A name with a leading dot is the unfinished work of an attack, which has no sidecar.
    """
    return sorted(Path(folder).glob("[!.]*.npz"))


def read_patch_set(path: Path, *, max_bytes: int = 1 << 32) -> PatchSet:
    """Read what :func:`write_patch_set` wrote.

    Args:
        path: NAME.npz.
        max_bytes: the most memory that its arrays may take.

    Raises:
        InputError: a file is missing, damaged, or has another format version, or the two do not
            belong together.
    """
    sidecar = _sidecar(path)
    meta = read_json(sidecar)
    if not isinstance(meta, dict) or meta.get("format") != "qadtr-patch-set":
        raise InputError(f"{sidecar} does not describe a patch set")
    if meta.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{sidecar} has format version {meta.get('format_version')!r}, but this qadtr reads "
            f"{FORMAT_VERSION}; make the patches again or use the qadtr that made them"
        )
    missing = sorted({"sha256", "name", "kind", "target", "provenance"} - meta.keys())
    if missing:
        raise InputError(f"{sidecar} lacks {', '.join(missing)}")
    digest = sha256_of(path)
    if digest != meta["sha256"]:
        raise InputError(
            f"{path} has SHA-256 {digest}, but its sidecar states {meta['sha256']}: the two "
            "files do not belong together, or one is damaged; make the patches again"
        )
    arrays = read_npz(path, max_bytes=max_bytes)
    if set(arrays) != set(_ARRAYS):
        raise InputError(f"{path} has arrays {sorted(arrays)}, expected {sorted(_ARRAYS)}")
    try:
        return PatchSet(
            name=meta["name"],
            kind=cast(Kind, meta["kind"]),
            patch=arrays["patch"],
            mask=arrays["mask"],
            positions=arrays["positions"],
            image_indices=arrays["image_indices"],
            target=meta["target"],
            origin=PatchOrigin.from_json(meta["provenance"]),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def random_floor(patch_set: PatchSet, rng: np.random.Generator) -> PatchSet:
    """Return a patch set of noise with the same kind, size, mask, positions and target.

    Every byte is drawn uniformly from 0…255; a per-image set draws separately for each image. Its
    attack success rate is the floor that an attack has to beat.
    """
    noise = rng.integers(0, 256, size=patch_set.patch.shape, dtype=np.uint8)
    return replace(
        patch_set,
        name=f"{patch_set.name}-random-floor",
        patch=noise,
        origin=PatchOrigin(attack="random-floor", more={"floor_of": patch_set.name}),
    )
