"""Bundles for the pipelines: a small one, and two of networks of which one resists a patch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import write_bundle
from deploy.bundle_contents import BundleContents, BundleModel, BundlePatch, Thresholds
from deploy.core.patch_set import read_patch_set
from deploy.device.command import main as validate
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.profile_check import profiled_run
from deploy.validator_archive import validator_bytes
from export.reference import IntegerReference
from tests.deploy.device.conftest import SIZE, contents, files
from tests.export.integer_graphs import balance, random_images, residual_graph

__all__ = ["contents", "files"]  # fixtures


@pytest.fixture(scope="session")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("validator") / "validate.pyz"
    path.write_bytes(validator_bytes())
    return path


@pytest.fixture(scope="session")
def before_and_after(
    contents: BundleContents, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Bundles of two networks, both right on every image; the patches were searched on the second.

    So they win there more often than on the first: what the gate is there to find. They have
    the same images and patches, as two commits of one project have.
    """
    folder = tmp_path_factory.mktemp("commits")
    images = random_images(np.random.default_rng(8), 1200, SIZE)
    models = [
        balance(
            residual_graph(np.random.default_rng(seed), size=SIZE, bits=4),
            images,
            folder / f"model-{seed}.onnx",
        )
        for seed in (5, 6)
    ]
    classes = []
    for model in models:
        with OnnxRuntimeEngine(model) as engine:
            classes.append(engine.predict(images))
    both = np.flatnonzero(classes[0] == classes[1])[:200]
    images, labels = images[both], classes[0][both]
    shared = replace(
        contents,
        images=images,
        labels=labels,
        indices=np.arange(len(both), dtype=np.int64),
        golden_inputs=images[:4],
        lab_clean=labels,
        thresholds=Thresholds(max_asr=0.99, max_drift=0.01, min_clean=0.5),
    )
    ordinary = contents.patches[0]
    ordinary = replace(
        ordinary,
        patch_set=replace(
            ordinary.patch_set,
            positions=np.zeros((len(both), 2), np.int32),
            image_indices=shared.indices,
        ),
    )
    draft = folder / "draft.qbundle"
    write_bundle(draft, _with(shared, models[1], [ordinary]))
    found = folder / "found.npz"
    words = ["--search", "--search-size", "1", "--search-images", "200", "--queries", "60"]
    reports = ["--json", str(folder / "draft.json"), "--junit", str(folder / "draft.xml")]
    validate([str(draft), *words, "--search-out", str(found), *reports])
    searched = replace(ordinary, patch_set=read_patch_set(found))
    paths = folder / "before.qbundle", folder / "after.qbundle"
    for path, model in zip(paths, models, strict=True):
        write_bundle(path, _with(shared, model, [searched]))
    return paths


def _with(shared: BundleContents, model: Path, patches: list[BundlePatch]) -> BundleContents:
    reference = IntegerReference(model)
    with OnnxRuntimeEngine(model) as engine:
        rows = [one.patch_set.image_indices for one in patches]
        measured = [
            replace(one, lab=engine.predict(one.patch_set.paste_on(shared.images[row])))
            for one, row in zip(patches, rows, strict=True)
        ]
    return replace(
        shared,
        models={
            "onnxruntime": BundleModel(
                path=model,
                certificate={
                    "engine": "onnxruntime-cpu",
                    "machine": "x86_64",
                    "kinds": profiled_run(model, shared.images[:8]).require_integers(),
                },
                logits_identical_on=("x86_64",),
            )
        },
        golden_logits=reference.run(shared.golden_inputs),
        golden_codes=reference.codes(shared.golden_inputs),
        patches=measured,
    )
