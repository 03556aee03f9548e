"""The stage "analyze": a run's network and patch files to one record for each analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.patch_set import PatchSet, read_patch_set
from deploy.core.records import write_record
from deploy.core.strict_json import json_bytes
from eval.measure.analyses import (
    feature_maps,
    gradient_alignment,
    gradient_maps,
    occlusion,
    patch_locations,
    patch_visibility,
)
from eval.measure.analyses.analysis_record import AnalysedModel, AnalysisFacts, form_of
from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.sample import Sample, draw_sample
from eval.measure.evaluation_record import images_facts, patch_identity
from eval.measure.patch_images import images_of_patches, patch_files_in
from eval.measure.patch_measures import patch_facts
from training.data import Images, ImageSet
from training.devices import torch_device
from training.progress import Progress
from training.record_types import payloads_by_key
from training.run_folder import RunFolder


@dataclass(frozen=True)
class Analysis:
    """One analysis: its module in ``eval.measure.analyses``, and the TypedDict of its own part of
    the payload; ``of_patches`` False: only the images without patches are looked at."""

    module: ModuleType
    part: type
    of_patches: bool = True

    @property
    def kind(self) -> str:
        """Of its record."""
        return str(self.module.KIND)

    @property
    def form(self) -> Any:
        """The TypedDict of its payload."""
        return form_of(self.part)


ANALYSES: Mapping[str, Analysis] = {
    "gradients": Analysis(gradient_alignment, gradient_alignment.GradientAlignment),
    "gradient-maps": Analysis(gradient_maps, gradient_maps.GradientMaps),
    "locations": Analysis(patch_locations, patch_locations.PatchLocations),
    "occlusion": Analysis(occlusion, occlusion.Occlusion, of_patches=False),
    "visibility": Analysis(patch_visibility, patch_visibility.PatchVisibility),
    "features": Analysis(feature_maps, feature_maps.FeatureMaps),
}


def analyse_run(
    run: RunFolder,
    patch_files: Sequence[Path],
    data: Images | None,
    names: Sequence[str],
    settings: AnalysisSettings,
    provenance: Mapping[str, Any],
    *,
    images: int | None = None,
    split: str = "test",
    device: str = "cpu",
) -> list[tuple[str, AnalysisFacts]]:
    """Analyse a run's network under each patch file; records go to its ``records`` folder.

    Records that exist are not made again.

    Args:
        patch_files: npz files, or folders of them.
        images: how many of each patch set's; None takes all.
        split: for patch sets that do not tell theirs.

    Returns:
        (kind, payload) of each record, in the order asked for.

    Raises:
        InputError: an unknown analysis, a bit-width that the network lacks, a damaged patch file,
            patches for other images, or more images than a set has.
        NothingToEvaluate: no patch file, or no image that counts.
        EngineUnavailable: torch has no such device here.
    """
    unknown = [name for name in names if name not in ANALYSES]
    if unknown or not names:
        raise InputError(
            f"unknown analysis {', '.join(unknown) or '(none given)'}; known: {', '.join(ANALYSES)}"
        )
    run.chosen_bit_widths(settings.bit_widths)
    patch_sets = [read_patch_set(path) for path in patch_files_in(patch_files)]
    image_set = images_of_patches([run], patch_sets, data, split)
    network = run.load_network().to(torch_device(device))
    there = {
        name: payloads_by_key(run.records, one.kind, one.form)
        for name, one in ANALYSES.items()
        if name in names
    }
    found: list[tuple[str, AnalysisFacts]] = []
    title = f"analyses of {run.path.name}"
    with Progress(title, len(patch_sets) * len(names)) as bar:
        for patch_set in patch_sets:
            sample = draw_sample(image_set, patch_set, images)
            for name in dict.fromkeys(names):
                analysis = ANALYSES[name]
                facts = _facts(run, image_set, sample, analysis, settings)
                known, key = there[name], facts["key"]
                if key not in known:
                    known[key] = {**facts, **analysis.module.analyse(network, sample, settings)}
                    write_record(run.records, analysis.kind, known[key], provenance)
                found.append((analysis.kind, known[key]))
                bar.advance()
    return found


def _facts(
    run: RunFolder,
    images: ImageSet,
    sample: Sample,
    analysis: Analysis,
    settings: AnalysisSettings,
) -> AnalysisFacts:
    own: PatchSet | None = sample.patch_set if analysis.of_patches else None
    model = AnalysedModel(
        network=run.network_name,
        defense=run.defense,
        checkpoint_sha256=run.checkpoint_sha256,
        bit_widths=list(settings.bit_widths),
    )
    patch = None if own is None else patch_facts(own, sample.image_size)
    asked = [
        *(analysis.kind, run.checkpoint_sha256, settings.as_record()),
        None if patch is None else patch_identity(patch),
        *(images.digest, images.split, sample.patch_set.image_indices.tolist()),
    ]
    return AnalysisFacts(
        key=sha256_of_bytes(json_bytes(asked)),
        model=model,
        images=images_facts(images),
        analysed=len(sample),
        patch=patch,
        settings=settings.as_record(),
    )
