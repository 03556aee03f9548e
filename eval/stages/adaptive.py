"""The stage "eval --adaptive": one run's network attacked at each bit-width, as records.

The patches found at each bit-width are written to the run's ``patches`` folder and evaluated like
any others, on the exported model where there is one, so that they stand in the main table too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.patch_set import PatchSet
from deploy.core.records import records_so_far
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.measure.adaptive.adaptive_record import KIND, AdaptiveRecord, adaptive_from_records
from eval.measure.adaptive.laws import at_fixed, at_random, at_worst
from eval.measure.adaptive.task import AdaptiveRunSettings, Task, begin
from eval.measure.patch_measures import patch_set_digest
from training.data import Images
from training.quantizers import FLOAT
from training.run_folder import RunFolder


def run_adaptive(
    run: RunFolder,
    data: Images | None,
    attack: AdaptiveSettings,
    settings: AdaptiveRunSettings,
    provenance: Mapping[str, Any],
    known_patches: Sequence[PatchSet] = (),
) -> list[AdaptiveRecord]:
    """Attack the run's network at each bit-width; then the worst case over them.

    Records that exist, with their patches, are not made again; a bit-width that was interrupted
    continues at its stage. Where a model was exported since, or anew, the patches that were found
    are tried on it and its records are made again.

    Args:
        known_patches: patch sets to start from besides; those that are not per image, of this size,
            place and split for all the images are passed over.

    Raises:
        InputError: a bit-width that the network lacks, more images than there are, a patch larger
            than the image.
        NothingToEvaluate: the network has no image right at some bit-width.
    """
    widths = run.chosen_bit_widths(settings.bit_widths)
    there = adaptive_from_records(records_so_far(run.records, KIND))
    known = {record["key"]: record for record in there}
    task = begin(run, data, attack, settings, provenance, known)
    transferred = _fitting(task, known_patches)
    made = []
    for bits in widths:
        found = at_fixed(task, bits, transferred)
        made.append(found)
        transferred[f"patches of {bits} bits"] = found.patches.patch
    records = [at.record for at in made]
    if len(made) > 1:
        records.append(at_worst(task, made))
    integers = tuple(bits for bits in widths if bits != FLOAT)
    if settings.random_precision and len(integers) > 1:
        records.append(at_random(task, integers, transferred))
    return records


def _fitting(task: Task, patch_sets: Sequence[PatchSet]) -> dict[str, NDArray[np.uint8]]:
    """The contents of those that are for these very images and places, by name; of several of one
    name the later ones get the start of their digest."""
    fitting: dict[str, NDArray[np.uint8]] = {}
    for patch_set in patch_sets:
        tried_on = patch_set.origin.tried_on
        places = dict(
            zip(patch_set.image_indices.tolist(), range(len(patch_set.positions)), strict=True)
        )
        if (
            patch_set.kind != "per-image"
            or patch_set.patch.shape[2:] != (task.attack.size_px,) * 2
            or not patch_set.mask.all()
            or tried_on is None
            or tried_on["digest"] != task.images.digest
            or any(index not in places for index in task.indices.tolist())
        ):
            continue
        rows = [places[index] for index in task.indices.tolist()]
        if np.array_equal(patch_set.positions[rows], task.positions):
            name, patch = patch_set.name, patch_set.patch[rows]
            if name in fitting and not np.array_equal(fitting[name], patch):
                name = f"{name} #{patch_set_digest(patch_set)[:6]}"
            fitting[name] = patch
    return fitting
