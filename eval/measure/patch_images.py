"""The images that patch sets are for, and the files of patch sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.patch_set import PatchSet, patch_files_of, read_patch_set
from training.data import Images, ImageSet
from training.run_folder import RunFolder, is_run


def patch_sets_of(patches: Sequence[Path | PatchSet]) -> list[PatchSet]:
    """The patch sets from files, from folders of files, and in memory.

    Raises:
        InputError: a file is missing or damaged.
        NothingToEvaluate: there are none.
    """
    places = [one for one in patches if isinstance(one, Path)]
    found = [read_patch_set(file) for file in (patch_files_in(places) if places else ())]
    found += [one for one in patches if isinstance(one, PatchSet)]
    if not found:
        raise NothingToEvaluate("no patch was given; make one with: qadtr patch RUN --attack lavan")
    return found


def patch_files_in(places: Sequence[Path]) -> list[Path]:
    """The patch files, npz, among the paths, and in those that are folders.

    Raises:
        InputError: no such path.
        NothingToEvaluate: there are none.
    """
    missing = [place for place in places if not place.exists()]
    if missing:
        raise InputError(
            f"there is no patch file or folder {', '.join(map(str, missing))}; "
            f"{_make_some(missing)}"
        )
    files: list[Path] = []
    for place in places:
        files += patch_files_of(place) if place.is_dir() else [place]
    if not files:
        raise NothingToEvaluate(
            f"there is no patch file in {', '.join(map(str, places))}; {_make_some(places)}"
        )
    return files


def _make_some(places: Sequence[Path]) -> str:
    """How to make patches, with the run to which a named folder of patches belongs, if any."""
    for place in places:
        if is_run(place.parent):
            run = RunFolder.open(place.parent)
            return f"make one with: {run.command('patch', '--attack', run.attack)}"
    return "make one with: qadtr patch RUN --attack lavan"


def require_images(patch_set: PatchSet, images: ImageSet) -> None:
    """Raise InputError unless a split has all the images that a patch set is for."""
    highest = int(patch_set.image_indices.max())
    if highest >= len(images):
        raise InputError(
            f"{patch_set.name} is for image {highest}, but {images.name}, {images.split} has "
            f"{len(images)} images; use it on the split that it was made for"
        )


def images_of_patches(
    runs: Sequence[RunFolder], patch_sets: Sequence[PatchSet], data: Images | None, split: str
) -> ImageSet:
    """The images that the indices of all patch sets refer to, checked by their digest.

    Args:
        runs: at least one, all of the same data.
        split: for patch sets that do not record theirs.

    Raises:
        InputError: runs have different data, or patches are for different splits or other images.
    """
    first = runs[0]
    of_first, *others = (run.sidecar["config"]["data"] for run in runs)
    for run, own in zip(runs[1:], others, strict=True):
        same = all(own[key] == of_first[key] for key in ("kind", "size"))
        if not same or run.classes != first.classes:
            raise InputError(
                f"{run.path} was trained on other data than {first.path}; take them apart"
            )
    facts = [patch_set.origin.tried_on for patch_set in patch_sets]
    splits = {fact["split"] for fact in facts if fact is not None} or {split}
    if len(splits) > 1:
        raise InputError(
            f"the patches are for different splits ({', '.join(sorted(splits))}); take them apart"
        )
    images = first.images(data, splits.pop())
    for patch_set, fact in zip(patch_sets, facts, strict=True):
        if fact is not None and fact["digest"] != images.digest:
            raise InputError(
                f"{patch_set.name} was made for other images than those given ({images.name}, "
                f"{images.split}): another data set, another copy of it, or another size"
            )
    return images
