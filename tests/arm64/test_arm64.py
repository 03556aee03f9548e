"""The validator on arm64: the same codes, logits and verdict as on this machine, at each bit-width.

Run by ``make test-arm64``. Whatever is missing fails it; nothing here is skipped.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.arm64_root import PROCESSORS, Arm64Root, arm64_root, is_arm64
from benchmarks.litert_arm64 import CPUS, compared_on_arm64
from benchmarks.records import ROOT
from deploy.core.files import write_atomic
from deploy.core.npz import npz_bytes
from deploy.core.stored_zip import write_stored_zip
from deploy.device.bundle_reading import Bundle
from deploy.validator_archive import validator_bytes
from qadtr.__main__ import main
from tests.deploy.device.conftest import rehashed
from tests.training.quantize.networks import fields

pytestmark = pytest.mark.arm64

BIT_WIDTHS = (8, 5, 4, 2)
IMAGES = 128

CONFIG = f"""
name = "small"
seed = 3

[data]
kind = "digits"
augment = "none"

[network]
name = "resnet8"
bit_widths = [32, {", ".join(map(str, BIT_WIDTHS))}]

[training]
epochs = 6
batch_size = 32
"""

OF_THE_MACHINE = ("date", "host", "latency", "peak_memory_bytes", "steps")
"""Parts of a report that two machines need not share."""


@dataclass(frozen=True)
class Validated:
    """One run of ``validate.pyz``."""

    exit_code: int
    out: str
    err: str
    report: dict[str, Any]

    @property
    def comparable(self) -> dict[str, Any]:
        """The report without what is of the machine; each step's name, success and words."""
        steps = [{**one, "seconds": None} for one in self.report["steps"]]
        shared = {key: self.report[key] for key in self.report if key not in OF_THE_MACHINE}
        return {**shared, "steps": steps}


@pytest.fixture(scope="module")
def root() -> Arm64Root:
    return arm64_root(ROOT / ".cache" / "arm64")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, exported at each bit-width, with patches for 128 images."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.toml").write_text(CONFIG)
    path = folder / "small"
    assert main(["train", str(folder / "small.toml"), "--out", str(path)]) == 0
    assert main(["export", str(path), "--images", "32"]) == 0
    patch = ["patch", str(path), "--attack", "lavan", "--size", "6", "--steps", "8"]
    assert main([*patch, "--images", str(IMAGES)]) == 0
    return path


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("validator") / "validate.pyz"
    write_atomic(path, validator_bytes())
    return path


@pytest.fixture
def work(root: Arm64Root) -> Iterator[Path]:
    """A folder that lies in the root too, as /bundles/NAME."""
    with tempfile.TemporaryDirectory(dir=root.folder / "bundles") as name:
        yield Path(name)


def bundled(run: Path, out: Path, bits: int, *reports: Path) -> Path:
    words = ["bundle", str(run), "--bits", str(bits), "--max-asr", "0.99", "--max-drift", "0.5"]
    words += [word for path in reports for word in ("--device-report", str(path))]
    assert main([*words, "--out", str(out)]) == 0
    return out


def validated_here(validator: Path, bundle: Path, folder: Path) -> Validated:
    words = [sys.executable, str(validator), str(bundle), "--json", "report.json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    report = json.loads((folder / "report.json").read_text())
    return Validated(done.returncode, done.stdout, done.stderr, report)


def validated_on_arm64(
    root: Arm64Root, validator: Path, bundle: Path, work: Path, *, cpu: str | None
) -> Validated:
    for path in (validator, bundle):
        shutil.copy(path, work)
    inside = f"/bundles/{work.name}"
    reports = ["--json", f"{inside}/report.json", "--junit", f"{inside}/junit.xml"]
    words = [f"{inside}/{validator.name}", f"{inside}/{bundle.name}", *reports]
    done = root.python(words, cpu=cpu)
    report = json.loads((work / "report.json").read_text())
    return Validated(done.returncode, done.stdout, done.stderr, report)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_codes_logits_and_verdict_are_those_of_this_machine(
    bits: int, root: Arm64Root, run: Path, validator: Path, work: Path, tmp_path: Path
) -> None:
    bundle = bundled(run, tmp_path / "model.qbundle", bits)
    here = validated_here(validator, bundle, tmp_path)
    assert here.exit_code == 0, here.err or here.out
    assert here.report["golden"]["tensors"] > 0
    assert here.report["clean"]["logits_sha256"] is not None
    assert here.report["images_used"] == IMAGES
    assert here.report["patches"][0]["asr"]["n"] > IMAGES // 4
    reports = []
    for cpu in CPUS:
        there = validated_on_arm64(root, validator, bundle, work, cpu=cpu)
        assert there.exit_code == 0, (cpu, there.err or there.out)
        assert there.report["host"]["machine"] == "aarch64"
        assert there.report["host"]["emulated"] is not is_arm64()
        if cpu is not None:
            assert there.report["host"]["instruction_sets"] == PROCESSORS[cpu]
        assert there.comparable == here.comparable, cpu
        reports.append(Path(shutil.copy(work / "report.json", tmp_path / f"{cpu}.json")))

    proved = bundled(run, tmp_path / "proved.qbundle", bits, *reports)
    with Bundle(proved) as opened:
        model = opened.manifest.models["onnxruntime"]
    assert "aarch64" in model.logits_identical_on
    assert model.machine_proof is not None
    on_arm64 = [one for one in model.machine_proof["machines"] if one["machine"] == "aarch64"]
    assert len(on_arm64) == len(CPUS)
    assert {one["images"] for one in on_arm64} == {IMAGES}


@pytest.mark.parametrize("cpu", CPUS)
def test_every_code_of_litert_is_that_of_its_reference(
    cpu: str | None, root: Arm64Root, run: Path
) -> None:
    """Kernels of another processor, the same float32 products: no code and no logit differs."""
    words = ["export", str(run), "--images", "32", "--target", "litert"]
    assert main([*words, "--least-agreement", "0.9"]) == 0
    files = [run / "export" / f"litert-{bits}.tflite" for bits in BIT_WIDTHS]
    found = compared_on_arm64(root, files, fields(4, 3, (32, 32), seed=5), cpu=cpu)
    assert {stem: one.different for stem, one in found.items()} == {p.stem: 0 for p in files}
    assert sum(one.values for one in found.values()) > 100_000


def test_a_bundle_says_on_arm64_where_its_logits_are_proved(
    root: Arm64Root, run: Path, validator: Path, work: Path, tmp_path: Path
) -> None:
    bundle = bundled(run, tmp_path / "model.qbundle", 4)
    validated_here(validator, bundle, tmp_path)
    proved = bundled(run, tmp_path / "proved.qbundle", 4, tmp_path / "report.json")
    there = validated_on_arm64(root, validator, proved, work, cpu=CPUS[0])
    assert there.exit_code == 0, there.err or there.out
    (line,) = [line for line in there.out.splitlines() if line.startswith("proof ")]
    assert f"{IMAGES} more images" in line
    assert "this machine: aarch64" in line
    assert line.endswith("golden logits equal bit for bit")


def test_one_changed_bit_of_the_golden_logits_is_found_on_arm64(
    root: Arm64Root, run: Path, validator: Path, work: Path, tmp_path: Path
) -> None:
    with Bundle(bundled(run, tmp_path / "whole.qbundle", 4)) as bundle:
        names = [*bundle.manifest.files, "manifest.json", "manifest.sha256"]
        with zipfile.ZipFile(bundle.path) as archive:
            files = {name: archive.read(name) for name in names}
    with np.load(io.BytesIO(files["golden/golden.npz"])) as golden:
        arrays = {name: golden[name].copy() for name in golden.files}
    arrays["logits"].view(np.uint32)[0, 0] ^= 1
    files["golden/golden.npz"] = npz_bytes(arrays)
    write_stored_zip(tmp_path / "changed.qbundle", rehashed(files))
    there = validated_on_arm64(root, validator, tmp_path / "changed.qbundle", work, cpu=CPUS[-1])
    assert there.exit_code == 2
    assert "differs from the golden logits" in there.err
    assert (there.report["outcome"], there.report["steps"][-1]["name"]) == ("error", "golden codes")
