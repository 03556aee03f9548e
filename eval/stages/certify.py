"""A run's models certified against every patch of a size, in the engine that ships."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from deploy.core.double_masking import Certification, attack_masked, certify, covering_masks
from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.patch_set import PatchSet
from deploy.core.records import write_record
from deploy.core.strict_json import json_bytes
from deploy.device.suite import paste_some
from eval.measure.certification_record import KIND, CertificationRecord, MaskedAttack
from eval.measure.evaluation_record import images_facts, patch_identity
from eval.measure.patch_images import images_of_patches, patch_sets_of
from eval.measure.patch_measures import patch_facts
from eval.measure.subject import Predictor, subjects_of
from training.data import Images, ImageSet
from training.data.subset import chosen_indices
from training.progress import Progress
from training.record_types import payloads_by_key
from training.run_folder import RunFolder
from training.validated import AtLeast1, BitWidths, validated


@validated()
class CertifySettings:
    """What to certify.

    Attributes:
        sizes_px: sides of the patches, one record each.
        masks_per_axis: masks along a side; all their pairs are evaluated.
        bit_widths: None takes all that are exported.
        images: how many of the split, at most.
        split: "test" for final tables, "holdout" to choose settings.
        engine: that runs the exported models, or "torch" for the network itself.
        threads: of the engine.
    """

    sizes_px: Annotated[tuple[AtLeast1, ...], Field(min_length=1)] = (5,)
    masks_per_axis: Annotated[int, Field(ge=2)] = 6
    bit_widths: BitWidths | None = None
    images: AtLeast1 = 500
    split: str = "test"
    engine: str = "onnxruntime"
    threads: AtLeast1 = 1


def certify_run(
    run: RunFolder,
    data: Images | None,
    settings: CertifySettings,
    provenance: Mapping[str, Any],
    patches: Sequence[Path | PatchSet] = (),
) -> list[CertificationRecord]:
    """One record for each bit-width and size of patch, in the run's ``records`` folder.

    Records that exist are not made again.

    Args:
        patches: tried against masked inference besides, on those of the images that they are for;
            each at every size that it fits in. The split is theirs.

    Raises:
        InputError: a bit-width that is not exported, a patch larger than the images, a patch set
            larger than every size or of other images, or one that wins on a certified image.
        EngineUnavailable: the engine is not here.
        NothingToEvaluate: masked inference classifies none of a patch set's images correctly.
    """
    patch_sets = patch_sets_of(patches) if patches else []
    for patch_set in patch_sets:
        if max(patch_set.size_px) > max(settings.sizes_px):
            side = max(patch_set.size_px)
            raise InputError(
                f"{patch_set.name} has a side of {side} px, which certificates against "
                f"{max(settings.sizes_px)} px do not cover; give --patch {side}"
            )
    images = images_of_patches([run], patch_sets, data, settings.split)
    indices = chosen_indices(len(images), min(settings.images, len(images)))
    chosen, labels = images.images[indices], images.labels[indices]
    size = (chosen.shape[2], chosen.shape[3])
    wanted = [
        covering_masks(size, px, per_axis=settings.masks_per_axis)
        for px in dict.fromkeys(settings.sizes_px)
    ]
    known = payloads_by_key(run.records, KIND, CertificationRecord)
    records = []
    for subject in subjects_of(run, settings.engine, settings.bit_widths):
        with subject.open(threads=settings.threads) as predictor:
            model = subject.facts(predictor.name)
            for masks in wanted:
                fitting = [one for one in patch_sets if max(one.size_px) <= masks.patch_px]
                facts = [dict(model), masks.patch_px, masks.boxes.tolist()]
                facts += [images.digest, images.split, len(indices)]
                facts += [patch_identity(patch_facts(one, size)) for one in fitting]
                key = sha256_of_bytes(json_bytes(facts))
                if key in known:
                    records.append(known[key])
                    continue
                timed = _Timed(predictor)
                what = f"{masks.patch_px} px at {subject.bit_width} bits"
                with Progress(what, masks.steps + 2 * len(masks) * len(fitting)) as bar:
                    found = certify(timed.predict, chosen, labels, masks, progress=bar.reach)
                    attacks = [
                        _attack(predictor, found, patch_set, images, indices, bar)
                        for patch_set in fitting
                    ]
                record = CertificationRecord(
                    key=key,
                    model=model,
                    images=images_facts(images),
                    patch_px=masks.patch_px,
                    mask_px=list(masks.mask_px),
                    masks=len(masks),
                    clean=found.clean,
                    masked=found.masked,
                    certified=found.certified,
                    mean_passes=found.mean_passes,
                    ms_per_pass=1e3 * timed.seconds / timed.images,
                )
                if attacks:
                    record["attacks"] = attacks
                write_record(run.records, KIND, record, provenance)
                records.append(record)
    return records


def _attack(
    predictor: Predictor,
    found: Certification,
    patch_set: PatchSet,
    images: ImageSet,
    indices: NDArray[np.int64],
    bar: Progress,
) -> MaskedAttack:
    """The patch set against masked inference, on those of the certified images that it is for."""
    own = np.flatnonzero(np.isin(patch_set.image_indices, indices))
    if len(own) == 0:
        raise InputError(
            f"{patch_set.name} was made for none of the {len(indices)} images to certify; make "
            "it for more of the split, or certify more images"
        )
    of = patch_set.image_indices[own]
    success = attack_masked(
        predictor.predict,
        found,
        np.searchsorted(indices, of),
        paste_some(patch_set, images.images[of], own),
        images.labels[of],
        patch_set.target,
        stepped=bar.advance,
    )
    return MaskedAttack(patch=patch_facts(patch_set, images.images.shape[2:]), asr=success.share)


class _Timed:
    """A predictor that adds up how long it took, and for how many images."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.seconds, self.images = 0.0, 0

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Classes, int64 N, of uint8 images N×C×H×W."""
        start = time.perf_counter()
        classes = self._predictor.predict(images)
        self.seconds += time.perf_counter() - start
        self.images += len(images)
        return classes
