"""The stage "eval": exported models of one or more runs against patch files, as records.

All models of one call are compared with each other: their common set is the images that every one
of them classifies correctly on its engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.bit_widths import bits_words
from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError
from deploy.core.latency import Latency, measure_latency
from deploy.core.patch_set import PatchSet, read_patch_set
from deploy.core.records import read_records
from deploy.engine import open_engine, require_engine
from eval.measure.evaluation import evaluate_model
from eval.measure.evaluation_record import EvaluationRecord
from eval.measure.examples import KIND as EXAMPLES_KIND
from eval.measure.examples import write_examples
from eval.measure.model_facts import model_facts
from eval.measure.patch_images import images_of_patches, patch_files_in
from eval.measure.patch_measures import common_set
from eval.report.words import model_name
from training.data import ImageSet
from training.run_folder import RunFolder

EXAMPLES = 4
"""Images of each patch set that the report shows."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        bit_widths: of the exported models; None takes all that are exported.
        engine: a name of ``deploy.engine.ENGINES``.
        threads: of the engine.
        batch_size: images a call.
        latency_batch_size: images a call where times are taken.
        latency_repeats: timed calls; 0 takes no times.
        drift: also ask the fake-quantized network, for the drift.
        split: of the images, where a patch set does not tell (a supplied patch).
        floor_seed: of the random patches.
    """

    bit_widths: tuple[int, ...] | None = None
    engine: str = "onnxruntime"
    threads: int = 1
    batch_size: int = 64
    latency_batch_size: int = 1
    latency_repeats: int = 200
    drift: bool = True
    split: str = "test"
    floor_seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    run: RunFolder
    bit_width: int
    file: Path
    name: str


def evaluate_runs(
    runs: Sequence[RunFolder],
    patch_files: Sequence[Path],
    data: Path | None,
    settings: EvaluationSettings,
    provenance: Mapping[str, Any],
) -> list[EvaluationRecord]:
    """Evaluate every exported model of `runs` against every patch file; one record each.

    The records go to the ``records`` folder of the model's run; those that exist are not made
    again.

    Args:
        runs: at least one, all of the same data.
        patch_files: npz files, or folders of them.
        data: the data folder.
        settings: bit-widths, engine, threads.
        provenance: from ``deploy.core.records.provenance``.

    Raises:
        InputError: a model that is not exported, a patch file that is damaged or was made for
            other images, runs of different data.
        NothingToEvaluate: no patch file, or no image that counts for an ASR.
        EngineUnavailable: the engine is not here.
    """
    require_engine(settings.engine)
    patch_sets = [read_patch_set(path) for path in patch_files_in(patch_files)]
    images = images_of_patches(runs, patch_sets, data, settings.split)
    models = [model for run in runs for model in _models(run, settings, runs)]
    records: list[EvaluationRecord] = []
    with ExitStack() as stack:
        engines = {
            model: stack.enter_context(
                open_engine(settings.engine, model.file, threads=settings.threads)
            )
            for model in models
        }
        clean = {
            model: engine.predict(images.images, settings.batch_size)
            for model, engine in engines.items()
        }
        common = common_set(
            {model.name: classes for model, classes in clean.items()}, images.labels
        )
        for run in runs:
            own = {model: engine for model, engine in engines.items() if model.run is run}
            network = run.load_network() if settings.drift else None
            for model, engine in own.items():
                records += evaluate_model(
                    engine,
                    images,
                    patch_sets,
                    model=model_facts(model.run, model.bit_width, model.file, engine.name),
                    records=run.records,
                    provenance=provenance,
                    network=network,
                    clean=clean[model],
                    common=common,
                    latency=_latency(engine, images, settings),
                    floor_seed=settings.floor_seed,
                    batch_size=settings.batch_size,
                )
            for patch_set in patch_sets:
                _show_examples(run, own, images, patch_set, provenance)
    return records


def _latency(engine: Engine, images: ImageSet, settings: EvaluationSettings) -> Latency | None:
    if settings.latency_repeats == 0:
        return None
    return measure_latency(
        engine,
        images.images,
        batch_size=settings.latency_batch_size,
        repeats=settings.latency_repeats,
    )


def _models(
    run: RunFolder, settings: EvaluationSettings, runs: Sequence[RunFolder]
) -> list[_Model]:
    engine, bit_widths = settings.engine, settings.bit_widths
    wanted = run.bit_widths if bit_widths is None else bit_widths
    exported = [bits for bits in run.bit_widths if run.model_file(bits, engine).is_file()]
    if bit_widths is None:
        wanted = tuple(exported)
    missing = [bits for bits in wanted if bits not in exported]
    if missing or not wanted:
        there = ", ".join(map(str, exported)) or "none"
        named = " ".join(map(str, missing))
        raise InputError(
            f"{run.path} has no exported model{f' at {named} bits' if named else ''} (exported: "
            f"{there}); make it with: {run.export_command(missing, engine)}"
        )
    alone = len(runs) == 1
    return [
        _Model(
            run=run,
            bit_width=bits,
            file=run.model_file(bits, engine),
            name=bits_words(bits) if alone else f"{run.path.name}, {bits_words(bits)}",
        )
        for bits in wanted
    ]


def _show_examples(
    run: RunFolder,
    engines: Mapping[_Model, Engine],
    images: ImageSet,
    patch_set: PatchSet,
    provenance: Mapping[str, Any],
) -> None:
    # The network too, not the bit-width alone: a report may show the examples of several runs.
    network = model_name(run.network_name, run.defense)
    models = {
        f"{network}, {bits_words(model.bit_width)}": engine.predict
        for model, engine in engines.items()
    }
    for record in read_records(run.records, EXAMPLES_KIND):
        payload = record["payload"]
        shown = {said["model"] for item in payload["items"] for said in item["predictions"]}
        same_images = payload["images"]["digest"] == images.digest
        if payload["patch"] == patch_set.name and same_images and shown == set(models):
            return
    write_examples(
        run.records,
        images=images,
        patch_set=patch_set,
        models=models,
        provenance=provenance,
        count=min(EXAMPLES, len(patch_set.image_indices)),
    )
