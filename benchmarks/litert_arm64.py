"""``.tflite`` files in LiteRT on an emulated arm64 machine, against their numpy reference."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arm64_root import PROCESSORS, Arm64Root, is_arm64
from benchmarks.records import ROOT
from deploy.core.errors import QadtrError
from export.litert_builder import with_outputs
from export.reference import LiteRtReference

CPUS = (None,) if is_arm64() else tuple(PROCESSORS)
"""The processors to play; on an arm64 machine, that machine."""

WITHOUT_SME = {"max": "max,sme=off"}
"""With the SME of qemu 7.2 half of the codes of XNNPACK's first convolution are wrong; whether by
qemu or by XNNPACK no hardware here can tell (docs/engines.md)."""

_THERE = """
import sys
from pathlib import Path

import numpy as np

folder = Path(__file__).parent
sys.path.insert(0, str(folder))
from deploy.litert_engine import LiteRtEngine

images = np.load(folder / "images.npy")
found = {}
for path in sorted(folder.glob("*.tflite")):
    with LiteRtEngine(path) as engine:
        kinds = {one.provider for one in engine.operators_that_ran()}
        assert "XNNPACK" in kinds, kinds
        for name, array in engine.outputs(images).items():
            found[f"{path.stem} {name}"] = array
np.savez(folder / "found.npz", **found)
"""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Codes and logits of one file on one processor, and how many are not the reference's."""

    values: int
    different: int


def compared_on_arm64(
    root: Arm64Root, models: Sequence[Path], images: NDArray[np.uint8], *, cpu: str | None
) -> Mapping[str, Compared]:
    """Run files in XNNPACK's kernels there, and compare every code and logit with the reference.

    Args:
        root: the machine.
        models: files of different names.
        images: uint8 N×C×H×W.
        cpu: of :data:`CPUS`.

    Returns:
        By the stem of each file's name.

    Raises:
        QadtrError: LiteRT does not run there.
    """
    references = {path.stem: LiteRtReference(path) for path in models}
    with _seen_processors(root), tempfile.TemporaryDirectory(dir=root.folder / "bundles") as name:
        work = Path(name)
        np.save(work / "images.npy", images)
        for path in models:
            probe = with_outputs(path.read_bytes(), references[path.stem].code_tensors)
            (work / path.name).write_bytes(probe)
        shutil.copytree(ROOT / "deploy", work / "deploy", ignore=lambda *_: ["__pycache__"])
        (work / "there.py").write_text(_THERE)
        inside = f"/bundles/{work.name}/there.py"
        done = root.python([inside], cpu=WITHOUT_SME.get(str(cpu), cpu))
        if done.returncode:
            raise QadtrError(f"LiteRT does not run on {cpu}: {done.stderr.strip()[-300:]}")
        with np.load(work / "found.npz") as found:
            return {
                stem: _compared(reference, images, found, stem)
                for stem, reference in references.items()
            }


def _compared(
    reference: LiteRtReference,
    images: NDArray[np.uint8],
    found: Mapping[str, NDArray[np.int8]],
    stem: str,
) -> Compared:
    logits = found[f"{stem} logits"].astype(np.float32) * reference.logit_scale
    truth = reference.run(images)
    values, different = truth.size, int(np.count_nonzero(logits != truth))
    for name, codes in reference.codes(images).items():
        shown = found[f"{stem} {name}"].view(np.uint8) ^ np.uint8(128)
        shown = shown.transpose(0, 3, 1, 2) if shown.ndim == 4 else shown
        values += codes.size
        different += int(np.count_nonzero(shown.reshape(codes.shape) != codes))
    return Compared(values=values, different=different)


@contextmanager
def _seen_processors(root: Arm64Root) -> Iterator[None]:
    """What XNNPACK asks of ``/sys``; without it it does not start. Taken away again: onnxruntime
    is tried without."""
    folder = root.folder / "sys"
    listed = folder / "devices" / "system" / "cpu"
    listed.mkdir(parents=True)
    try:
        for name in ("possible", "present"):
            (listed / name).write_text("0\n")
        yield
    finally:
        shutil.rmtree(folder)
