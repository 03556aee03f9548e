"""The committed checkpoints give the model bytes that they always gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.core.files import sha256_of
from export.lowering import lower, lower_float
from export.qonnx_from_network import write_qonnx
from export.targets import TARGETS
from training.network_spec import NetworkSpec
from training.quantizers import FLOAT
from training.run_folder import RunFolder

RESULTS = Path(__file__).parents[2] / "results"
DIGESTS = Path(__file__).with_name("committed_models.json")
"""SHA-256 of every file, by run folder, bit-width and target; a new figure here needs a reason in
the change that brings it."""

CHECKPOINTS = sorted(RESULTS.rglob("checkpoint.safetensors"))


def _cases() -> list[object]:
    """Every checkpoint; of those with equal networks and settings, all but the first are slow."""
    seen, cases = list[NetworkSpec](), list[object]()
    for checkpoint in CHECKPOINTS:
        spec = RunFolder.open(checkpoint.parent).spec
        marks = [pytest.mark.slow] if spec in seen else []
        seen.append(spec)
        name = checkpoint.parent.relative_to(RESULTS).as_posix()
        cases.append(pytest.param(checkpoint, marks=marks, id=name))
    return cases


def test_every_committed_checkpoint_has_its_digests() -> None:
    assert len(CHECKPOINTS) > 10
    names = {path.parent.relative_to(RESULTS).as_posix() for path in CHECKPOINTS}
    assert names == set(json.loads(DIGESTS.read_text(encoding="utf-8")))


@pytest.mark.parametrize("checkpoint", _cases())
def test_the_exported_files_have_the_bytes_they_had(checkpoint: Path, tmp_path: Path) -> None:
    run = RunFolder.open(checkpoint.parent)
    network = run.load_network()
    found: dict[str, dict[str, str]] = {}
    for bits in run.bit_widths:
        source = tmp_path / f"source-{bits}.onnx"
        write_qonnx(network, bits, source, checkpoint_sha256=run.checkpoint_sha256)
        found[str(bits)] = digests = {"qonnx": sha256_of(source)}
        for target in TARGETS:
            if (target, bits) == ("litert", FLOAT):  # it has no float baseline
                continue
            file = tmp_path / f"{target}-{bits}.onnx"
            if bits == FLOAT:
                lower_float(source, file, target=target)
            else:
                lower(source, file, target=target)
            digests[target] = sha256_of(file)
    expected = json.loads(DIGESTS.read_text(encoding="utf-8"))
    assert found == expected[checkpoint.parent.relative_to(RESULTS).as_posix()]
