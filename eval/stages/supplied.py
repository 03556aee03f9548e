"""The stage "patch" for supplied patches: somebody else's files to patch sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.core.files import json_bytes, sha256_of_bytes
from deploy.core.patch_set import PatchSet, write_patch_set
from eval.attacks.supplied.placing import PlacingSettings, placed_patch_sets
from eval.attacks.supplied.reading import read_supplied
from eval.stages.patch import PatchRunSettings
from training.data.subset import chosen_indices
from training.run_folder import RunFolder


def supply_patches(
    run: RunFolder,
    file: Path,
    data: Path | None,
    placing: PlacingSettings,
    settings: PatchRunSettings,
    provenance: Mapping[str, Any],
    folder: Path | None = None,
) -> list[tuple[Path, PatchSet]]:
    """Place the patches of a file on the images of a run and write a patch set for each.

    Args:
        run: whose images they are placed on; its network is not asked.
        file: a PNG or npz, see ``eval.attacks.supplied.reading``.
        settings: split, number of images and seed; the rest does not matter here.
        folder: of the patch sets; default ``RUN/patches``.

    Returns:
        Paths of the npz files with their patch sets, in the order of the file.

    Raises:
        InputError: a damaged file, a target that is no class of the run, a patch that does not fit,
            or more images than there are.
    """
    supplied = read_supplied(file)
    images = run.images(data, settings.split)
    made = placed_patch_sets(
        supplied,
        placing,
        chosen_indices(len(images), settings.images),
        (images.images.shape[2], images.images.shape[3]),
        classes=len(run.classes),
        seed=settings.seed,
    )
    asked = [supplied.sha256, placing.as_record(), settings.images, settings.seed, images.about]
    short = sha256_of_bytes(json_bytes(asked))[:8]
    written = []
    for one in made:
        origin = replace(one.origin, tried_on=images.about, run=provenance)
        path = (folder or run.patches) / f"{one.name}-{short}.npz"
        write_patch_set(path, replace(one, origin=origin))
        written.append((path, one))
    return written
