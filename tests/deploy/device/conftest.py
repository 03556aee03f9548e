"""Small real bundles: an integer network, its golden data, and patches that win often or never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import bundle_files
from deploy.bundle_contents import BundleContents, BundleModel, BundlePatch, Thresholds
from deploy.core.files import sha256_of_bytes
from deploy.core.patch_origin import PatchOrigin
from deploy.core.patch_set import PatchSet
from deploy.core.stored_zip import write_stored_zip
from deploy.core.strict_json import json_bytes
from deploy.device.bundle_reading import checksums_text
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.profile_check import profiled_run
from deploy.validator_archive import validator_bytes
from export.reference import IntegerReference
from tests.export.integer_graphs import balance, random_images, residual_graph

N = 240
SIZE = 8


def patch_set(name: str, size_px: int, fill: int, n: int = N) -> PatchSet:
    return PatchSet(
        name=name,
        kind="universal",
        patch=np.full((1, 3, size_px, size_px), fill, np.uint8),
        mask=np.ones((size_px, size_px), np.bool_),
        positions=np.zeros((n, 2), np.int32),
        image_indices=np.arange(n, dtype=np.int64),
        origin=PatchOrigin(attack="constant", settings={"placement": "corner"}, seed=1),
    )


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> BundleContents:
    """A one-pixel patch that hardly ever wins, gated, and one that covers the image, not gated."""
    return small_contents(tmp_path_factory.mktemp("model"))


def small_contents(folder: Path, n: int = N) -> BundleContents:
    """What a small bundle of ``n`` images holds; its model is written into the folder."""
    rng = np.random.default_rng(5)
    images = random_images(rng, n, SIZE)
    model = balance(residual_graph(rng, size=SIZE, bits=4), images, folder / "model-4.onnx")
    reference = IntegerReference(model)
    with OnnxRuntimeEngine(model) as engine:
        labels = engine.predict(images)  # a network that is always right
        quiet, loud = patch_set("quiet", 1, 128, n), patch_set("loud", SIZE, 200, n)
        patched = [engine.predict(one.paste_on(images)) for one in (quiet, loud)]
    return BundleContents(
        name="small network",
        bit_width=4,
        classes=[f"class {i}" for i in range(5)],
        models={
            "onnxruntime": BundleModel(
                path=model,
                certificate={
                    "engine": "onnxruntime-cpu",
                    "machine": "x86_64",
                    "kinds": profiled_run(model, images[:8]).require_integers(),
                },
                logits_identical_on=("x86_64",),
            )
        },
        images=images,
        labels=labels,
        indices=np.arange(n, dtype=np.int64),
        images_about={"name": "noise", "split": "test", "digest": "0" * 64},
        golden_inputs=images[:4],
        golden_logits=reference.run(images[:4]),
        golden_codes=reference.codes(images[:4]),
        lab_engine="onnxruntime-cpu",
        lab_clean=labels,
        patches=[
            BundlePatch(patch_set=quiet, lab=patched[0]),
            BundlePatch(patch_set=loud, lab=patched[1], gated=False),
        ],
        thresholds=Thresholds(max_asr=0.5, max_drift=0.1, min_clean=0.5),
        provenance={"seed": 5},
    )


@pytest.fixture(scope="session")
def files(contents: BundleContents) -> dict[str, bytes]:
    """Every file of the bundle by path; copy before changing."""
    return bundle_files(contents)


@pytest.fixture
def bundle(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle as one file, in a folder of its own that is the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.qbundle"
    write_stored_zip(path, files)
    return path


@pytest.fixture
def save_folder(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def save(parts: dict[str, bytes]) -> Path:
        folder = tmp_path / "bundle"
        for name, data in parts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    return save


def rehashed(
    parts: dict[str, bytes], change: Callable[[dict[str, Any]], None] = lambda manifest: None
) -> dict[str, bytes]:
    """The attacker's work: hashes and checksums made to fit what the files are now."""
    parts = dict(parts)
    manifest = json.loads(parts["manifest.json"])
    for name, facts in manifest["files"].items():
        facts["sha256"] = sha256_of_bytes(parts[name])
        facts["size_bytes"] = len(parts[name])
    change(manifest)
    parts["manifest.json"] = json_bytes(manifest)
    parts["manifest.sha256"] = checksums_text(parts["manifest.json"], parts.get("manifest.sig"))
    return parts


@pytest.fixture
def elsewhere(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with validate.pyz, and an environment in which nothing but numpy and onnxruntime
    can be imported of what is installed here."""
    folder = tmp_path / "elsewhere"
    (folder / "blocker").mkdir(parents=True)
    names = "torch brevitas onnx onnx_ir qonnx scipy PIL tqdm deploy training export eval qadtr"
    (folder / "blocker" / "sitecustomize.py").write_text(
        f"import sys\nfor name in {names.split()!r}: sys.modules[name] = None\n"
    )
    (folder / "validate.pyz").write_bytes(validator_bytes())
    environment = {**os.environ, "PYTHONPATH": str(folder / "blocker"), "OMP_NUM_THREADS": "1"}
    return folder, environment


def run_elsewhere(
    words: list[str], place: tuple[Path, dict[str, str]]
) -> subprocess.CompletedProcess[str]:
    folder, environment = place
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
