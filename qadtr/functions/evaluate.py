"""`qadtr.evaluate` and `qadtr.adaptive`: the attack success rate of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.core.patch_set import PatchSet
from deploy.core.records import read_records
from deploy.engine import require_engine
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.measure.adaptive.adaptive_record import AdaptiveRecord
from eval.measure.adaptive.task import AdaptiveRunSettings
from eval.measure.evaluation_record import EvaluationRecord
from eval.measure.patch_images import patch_sets_of
from eval.measure.subject import TORCH
from eval.stages.adaptive import run_adaptive
from eval.stages.evaluate import EvaluationSettings, evaluate_runs
from qadtr.functions.inputs import Patches, Runs, all_opened, all_patches
from qadtr.functions.results import Results
from qadtr.origin import provenance
from training.data import Images
from training.patch_sizes import in_pixels
from training.run_folder import RunFolder
from training.validated import read_settings


def evaluate(
    runs: Runs,
    patches: Patches,
    images: Images | None = None,
    *,
    bits: Sequence[int] | None = None,
    engine: str = "onnxruntime",
    threads: int = 1,
    batch_size: int = 64,
    drift: bool = True,
    latency: bool = True,
    split: str = "test",
) -> Results:
    """Clean accuracy, attack success rate and latency of exported models in their engine.

    Args:
        runs: one, or several, which are compared on the images that all classify correctly.
        patches: patch sets, their files, or folders of these.
        images: images of the split that the patches are for; None takes the first run's own.
        bits: bit-widths; None: all that are exported.
        engine: "onnxruntime", "litert", "openvino", "tensorrt", ….
        threads: of the engine.
        batch_size: images per call.
        drift: also evaluate the fake-quantized network.
        latency: measure latency.
        split: split of the images, for patch sets that do not record it (supplied ones).

    Returns:
        Results with ``rows`` of plain values and ``to_csv()``. A record of each is kept in the
        run's folder and is not made again.

    Raises:
        InputError: a model is not exported, or patches are for other images.
        NothingToEvaluate: no patch, or no image that counts for a rate.
        EngineUnavailable: the engine is not installed or does not run on this machine.

    Example:
        >>> results = qadtr.evaluate("runs/own", patches, [training_set, test_set], bits=[4],
        ...     latency=False)
        >>> row, = results.rows
        >>> row.bits, row.engine, 0.0 <= row.asr <= 1.0
        ('4', 'onnxruntime-cpu', True)
        >>> results.to_csv().startswith("kind,name,run,seed,network,")
        True
    """
    folders = all_opened(runs, images)
    settings = EvaluationSettings(
        bit_widths=None if bits is None else tuple(bits),
        engine=engine,
        threads=threads,
        batch_size=batch_size,
        latency_repeats=EvaluationSettings.latency_repeats if latency else 0,
        drift=drift,
        split=split,
    )
    found = evaluate_runs(folders, all_patches(patches), images, settings, provenance())
    return _whole(folders, found)


def adaptive(
    runs: Runs,
    images: Images | None = None,
    *,
    bits: Sequence[int] | None = None,
    count: int = 500,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    patches: Patches = (),
    split: str = "test",
    engine: str = "onnxruntime",
    random_precision: bool = False,
) -> Results:
    """Attack each network itself, at each bit-width, with knowledge of its defense.

    Low attack success rates of transferred patches must be compared with these rates.

    Args:
        runs: one or several.
        images: images to attack; None takes the run's own.
        bits: bit-widths; None: all of the network.
        count: number of images to attack, drawn evenly.
        seed: seed of the attack.
        settings: settings of the attack: ``{"size_px": "5%", "steps": 200}``.
        patches: additional starting points.
        split: split of the images.
        engine: engine that the patches are tried in if a model is exported for it, else torch.
        random_precision: also attack with a bit-width drawn at random for each answer.

    Returns:
        A row for each bit-width, and one for the worst bit-width of each image.

    Raises:
        InputError: a bit-width that a network lacks, too many images, an unknown setting.
        NothingToEvaluate: a network classifies no image correctly.
        EngineUnavailable: the engine is not installed or does not run on this machine.

    Example:
        >>> found = qadtr.adaptive("runs/own", [training_set, test_set], bits=[4], count=12,
        ...     settings={"size_px": 4, "steps": 2})
        >>> row = found.rows[-1]
        >>> row.bits, row.engine, row.whitebox
        ('4', 'torch', True)
    """
    folders = all_opened(runs, images)
    asked = AdaptiveRunSettings(
        bit_widths=None if bits is None else tuple(bits),
        images=count,
        seed=seed,
        split=split,
        engine=engine,
        random_precision=random_precision,
    )
    if engine != TORCH:
        require_engine(engine)
    given = all_patches(patches)
    known = patch_sets_of(given) if given else []
    made: list[AdaptiveRecord] = []
    for folder in folders:
        made += attacked_adaptively(folder, images, settings or {}, asked, known)
    return _whole(folders, made)


def attacked_adaptively(
    run: RunFolder,
    images: Images | None,
    given: Mapping[str, Any],
    settings: AdaptiveRunSettings,
    known: Sequence[PatchSet],
) -> list[AdaptiveRecord]:
    """:func:`adaptive` on one run; `qadtr eval --adaptive` calls this too."""
    sizes = in_pixels(given, run.spec.image_size)
    attack = read_settings(AdaptiveSettings, sizes, "adaptive evaluation")
    about = provenance(seed=settings.seed, config=attack.as_record())
    return run_adaptive(run, images, attack, settings, about, known)


def _whole(
    runs: Sequence[RunFolder], found: Sequence[EvaluationRecord] | Sequence[AdaptiveRecord]
) -> Results:
    """The records of these payloads, with their provenance."""
    keys = {one["key"] for one in found}
    records = [record for run in runs for record in read_records(run.records)]
    return Results.of([one for one in records if one["payload"].get("key") in keys])
