"""A run's models certified against every patch of a size, in the engine that ships."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from deploy.core.double_masking import certify, covering_masks
from deploy.core.files import json_bytes, sha256_of_bytes
from deploy.core.records import write_record
from eval.measure.certification_record import KIND, CertificationRecord
from eval.measure.evaluation_record import images_facts
from eval.measure.subject import Predictor, subjects_of
from training.data import Images
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
        masks_per_axis: masks along a side; all their pairs are asked.
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
    run: RunFolder, data: Images | None, settings: CertifySettings, provenance: Mapping[str, Any]
) -> list[CertificationRecord]:
    """One record for each bit-width and size of patch, in the run's ``records`` folder.

    Records that exist are not made again.

    Raises:
        InputError: a bit-width that is not exported, or a patch larger than the images.
        EngineUnavailable: the engine is not here.
    """
    images = run.images(data, settings.split)
    indices = chosen_indices(len(images), min(settings.images, len(images)))
    chosen, labels = images.images[indices], images.labels[indices]
    size = (chosen.shape[2], chosen.shape[3])
    wanted = [
        covering_masks(size, px, per_axis=settings.masks_per_axis) for px in settings.sizes_px
    ]
    known = payloads_by_key(run.records, KIND, CertificationRecord)
    records = []
    for subject in subjects_of(run, settings.engine, settings.bit_widths):
        with subject.open(threads=settings.threads) as predictor:
            model = subject.facts(predictor.name)
            for masks in wanted:
                facts = [dict(model), masks.patch_px, masks.boxes.tolist()]
                facts += [images.digest, images.split, len(indices)]
                key = sha256_of_bytes(json_bytes(facts))
                if key in known:
                    records.append(known[key])
                    continue
                timed = _Timed(predictor)
                what = f"{masks.patch_px} px at {subject.bit_width} bits"
                with Progress(what, masks.steps) as bar:
                    found = certify(timed.predict, chosen, labels, masks, progress=bar.reach)
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
                write_record(run.records, KIND, record, provenance)
                records.append(record)
    return records


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
