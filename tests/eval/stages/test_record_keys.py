"""A record or a patch file that is there is taken only where it answers the very same question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.core.errors import InputError
from deploy.core.patch_set import PatchSet, read_patch_set, write_patch_set
from eval.attacks.supplied.placing import PlacingSettings
from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.examples import write_examples
from eval.measure.subject import TORCH, subjects_of
from eval.stages.analyze import analyse_run
from eval.stages.certify import CertifySettings, certify_run
from eval.stages.defenses import SOURCE, Defenses, DefensesSettings
from eval.stages.evaluate import model_name_of
from eval.stages.patch import PatchRunSettings, supply_patches
from tests.eval.stages.conftest import IMAGES, random_run
from training.data import ImageSet
from training.run_folder import RunFolder


@pytest.fixture
def sticker() -> PatchSet:
    return PatchSet(
        name="sticker",
        kind="universal",
        patch=np.full((1, 3, 4, 4), 255, np.uint8),
        mask=np.ones((4, 4), np.bool_),
        positions=np.zeros((IMAGES, 2), np.int32),
        image_indices=np.arange(IMAGES),
    )


def test_a_certificate_is_of_patches_with_that_target(run: RunFolder, sticker: PatchSet) -> None:
    settings = CertifySettings(
        sizes_px=(4,), masks_per_axis=2, bit_widths=(4,), images=IMAGES, engine=TORCH
    )
    other = int((run.images(None, "test").labels[0] + 1) % 10)
    asked = [
        certify_run(run, None, settings, {}, [replace(sticker, target=t)]) for t in (None, other)
    ]
    assert [one["attacks"][0]["patch"]["target"] for (one,) in asked] == [None, other]
    assert certify_run(run, None, settings, {}, [sticker]) == asked[0]


def test_a_size_that_is_asked_twice_is_certified_once(run: RunFolder, tmp_path: Path) -> None:
    settings = CertifySettings(
        sizes_px=(5, 5), masks_per_axis=2, bit_widths=(4,), images=IMAGES, engine=TORCH
    )
    before = len(list(run.records.glob("certification-*")))
    (made,) = certify_run(run, None, settings, {}, [])
    assert made["patch_px"] == 5
    assert len(list(run.records.glob("certification-*"))) == before + 1


def test_runs_of_one_folder_name_are_two_models(tmp_path: Path, held_out_digits: ImageSet) -> None:
    runs = [random_run(tmp_path / f"{seed}" / "run", held_out_digits, seed) for seed in (1, 2)]
    names = [model_name_of(subjects_of(run, TORCH, (4,))[0], runs) for run in runs]
    assert len(set(names)) == 2
    assert all(name.startswith("run #") and name.endswith(", 4 bits") for name in names)
    (subject,) = subjects_of(runs[0], TORCH, (4,))
    assert model_name_of(subject, runs[:1]) == "4 bits"


def test_patches_of_one_name_have_examples_each(
    run: RunFolder, sticker: PatchSet, tmp_path: Path
) -> None:
    images = run.images(None, "test")
    for value in (255, 0, 0):
        shown = replace(sticker, patch=np.full((1, 3, 4, 4), value, np.uint8))
        models = {"first": lambda pixels: np.zeros(len(pixels), np.int64)}
        write_examples(tmp_path, images=images, patch_sets=[shown], models=models, provenance={})
    assert len(list(tmp_path.glob("examples-*"))) == 2


def test_supplied_patches_have_the_channels_of_the_images(run: RunFolder, tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", patches=np.zeros((1, 1, 6, 6), np.uint8))
    with pytest.raises(InputError, match=r"patches of 1 channel, but the images of .* have 3"):
        supply_patches(
            run, tmp_path / "grey.npz", None, PlacingSettings(), PatchRunSettings(images=2), {}
        )


def test_an_analysis_is_of_patches_with_that_target(
    run: RunFolder, sticker: PatchSet, tmp_path: Path
) -> None:
    settings = AnalysisSettings(bit_widths=(32, 4))
    targets = []
    for target in (None, 3, 3):
        file = tmp_path / "sticker.npz"
        write_patch_set(file, replace(sticker, target=target))
        ((_, facts),) = analyse_run(run, [file], None, ["gradient-maps"], settings, {}, images=2)
        assert facts["patch"] is not None
        targets.append(facts["patch"]["target"])
    assert targets == [None, 3, 3]
    assert len(list(run.records.glob("gradient-maps*"))) == 2


def test_the_table_of_defenses_takes_no_patches_of_another_source_or_of_other_images(
    run: RunFolder, held_out_digits: ImageSet, tmp_path: Path
) -> None:
    other = random_run(tmp_path / "other", held_out_digits, seed=1)
    settings = DefensesSettings(configs=tmp_path, sizes_px=(4,), images=2, steps=1, made_from=4)
    table = Defenses(settings=settings, data=None, out=tmp_path / "out")
    fewer = replace(table, settings=replace(settings, made_from=3))
    first, again, of_other, of_fewer = (
        one._patches(SOURCE, source)
        for one, source in ((table, run), (table, run), (table, other), (fewer, run))
    )
    assert first == again
    assert not set(first) & set(of_other)
    for file in of_other:
        source = read_patch_set(file).origin.source
        assert source is not None and source["checkpoint_sha256"] == other.checkpoint_sha256
    # What is made for each image has no such number.
    assert len(set(first) & set(of_fewer)) == 1
