"""The stage "eval": exported models of one or more runs against patch files, as records.

All models of one call are compared with each other: their common set is the images that every one
of them classifies correctly on its engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from deploy.core.bit_widths import bits_words
from deploy.core.engine_protocol import Engine
from deploy.core.latency import Latency, measure_latency
from deploy.core.patch_set import PatchSet
from deploy.engine import require_engine
from eval.measure.evaluation import evaluate_model
from eval.measure.evaluation_record import EvaluationRecord
from eval.measure.examples import write_examples
from eval.measure.patch_images import images_of_patches, patch_sets_of
from eval.measure.patch_measures import common_set
from eval.measure.subject import Subject, subjects_of
from eval.report.words import model_name
from training.data import Images, ImageSet
from training.run_folder import RunFolder
from training.validated import AtLeast0, AtLeast1, BitWidths, validated

EXAMPLES = 4
"""Images of each patch set that the report shows."""


@validated()
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        bit_widths: of the exported models; None takes all that are exported.
        engine: a name of ``deploy.engine.ENGINES``.
        threads: of the engine.
        batch_size: images a call.
        latency_batch_size: images a call where times are taken.
        latency_repeats: timed calls; 0 takes no times.
        drift: also ask the fake-quantized network, for the drift; an adopted file has none.
        split: of the images, where a patch set does not tell (a supplied patch).
        floor_seed: of the random patches.
    """

    bit_widths: BitWidths | None = None
    engine: str = "onnxruntime"
    threads: AtLeast1 = 1
    batch_size: AtLeast1 = 64
    latency_batch_size: AtLeast1 = 1
    latency_repeats: AtLeast0 = 200
    drift: bool = True
    split: str = "test"
    floor_seed: AtLeast0 = 0


def evaluate_runs(
    runs: Sequence[RunFolder],
    patches: Sequence[Path | PatchSet],
    data: Images | None,
    settings: EvaluationSettings,
    provenance: Mapping[str, Any],
) -> list[EvaluationRecord]:
    """Evaluate every exported model of `runs` against every patch file; one record each.

    The records go to the ``records`` folder of the model's run; those that exist are not made
    again.

    Args:
        runs: at least one, all of the same data.
        patches: npz files, folders of them, or patch sets.

    Raises:
        InputError: a model that is not exported, a patch file that is damaged or was made for
            other images, runs of different data.
        NothingToEvaluate: no patch file, or no image that counts for an ASR.
        EngineUnavailable: the engine is not here.
    """
    require_engine(settings.engine)  # before the patches and images are read
    patch_sets = patch_sets_of(patches)
    images = images_of_patches(runs, patch_sets, data, settings.split)
    subjects = {run: subjects_of(run, settings.engine, settings.bit_widths) for run in runs}
    records: list[EvaluationRecord] = []
    with ExitStack() as stack:
        engines = {
            subject: stack.enter_context(subject.open_engine(threads=settings.threads))
            for own in subjects.values()
            for subject in own
        }
        clean = {
            subject: engine.predict(images.images, settings.batch_size)
            for subject, engine in engines.items()
        }
        common = common_set(
            [(model_name_of(subject, runs), classes) for subject, classes in clean.items()],
            images.labels,
        )
        for run, own in subjects.items():
            network = run.load_network() if settings.drift and not run.adopted else None
            for subject in own:
                engine = engines[subject]
                records += evaluate_model(
                    engine,
                    images,
                    patch_sets,
                    model=subject.facts(engine.name),
                    records=run.records,
                    provenance=provenance,
                    network=network,
                    clean=clean[subject],
                    common=common,
                    latency=partial(_latency, engine, images, settings),
                    floor_seed=settings.floor_seed,
                    batch_size=settings.batch_size,
                )
            shown = {
                # The network too: a report may show the examples of several runs.
                f"{model_name(run.network_name, run.defense)}, {bits_words(subject.bit_width)}": (
                    engines[subject].predict
                )
                for subject in own
            }
            write_examples(
                run.records,
                images=images,
                patch_sets=patch_sets,
                models=shown,
                provenance=provenance,
                count=EXAMPLES,
            )
    return records


def model_name_of(subject: Subject, runs: Sequence[RunFolder]) -> str:
    """The bit-width, with several runs after the folder's name, and where that is of several after
    the checkpoint's digest too."""
    words = bits_words(subject.bit_width)
    if len(runs) == 1:
        return words
    alike = sum(run.path.name == subject.name for run in runs) > 1
    checkpoint = f" #{subject.checkpoint_sha256[:6]}" if alike and subject.checkpoint_sha256 else ""
    return f"{subject.name}{checkpoint}, {words}"


def _latency(engine: Engine, images: ImageSet, settings: EvaluationSettings) -> Latency | None:
    if settings.latency_repeats == 0:
        return None
    return measure_latency(
        engine,
        images.images,
        batch_size=settings.latency_batch_size,
        repeats=settings.latency_repeats,
    )
