"""Not one hostile bundle passes, gives a traceback, or an exit code outside the table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.files import write_atomic
from deploy.core.patch_set import patch_set_bytes
from deploy.core.stored_zip import write_stored_zip
from deploy.device.command import main
from deploy.validator_archive import validator_bytes
from tests.deploy.device.conftest import patch_set, rehashed
from tests.deploy.device.hostile import MUTATIONS, hostile_bundle
from tests.export.integer_graphs import residual_graph

ORDINARY = 200
THOROUGH = 2000
SUBPROCESSES = 100
MOST_MEMORY_BYTES = 200 << 20


def refuse_all(
    files: dict[str, bytes],
    numbers: range,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in numbers:
        folder = tmp_path / "now"
        folder.mkdir()
        what, path = hostile_bundle(files, number, folder)
        code = main([str(path)])
        said = capsys.readouterr()
        assert code == 2, (what, said)
        assert len(said.err.splitlines()) == 1, (what, said.err)
        assert "unexpected" not in said.err, (what, said.err)
        report = json.loads(Path("report.json").read_text())
        assert (report["exit_code"], report["outcome"]) == (2, "error"), what
        shutil.rmtree(folder)


def test_200_hostile_bundles(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(MUTATIONS) * 9 <= ORDINARY
    refuse_all(files, range(ORDINARY), tmp_path, monkeypatch, capsys)


@pytest.mark.hostile
def test_2000_hostile_bundles(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers = range(ORDINARY, ORDINARY + THOROUGH - SUBPROCESSES)
    refuse_all(files, numbers, tmp_path, monkeypatch, capsys)


@pytest.mark.hostile
def test_100_hostile_bundles_as_processes(files: dict[str, bytes], tmp_path: Path) -> None:
    run_as_processes(files, SUBPROCESSES, tmp_path)


def test_hostile_bundles_as_processes(files: dict[str, bytes], tmp_path: Path) -> None:
    run_as_processes(files, 3, tmp_path)


# Not the usage that wait4 tells: Linux starts that count at the memory of the parent, this process.
AND_TELL_MEMORY = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    status = open("/proc/self/status").read()
    print("kB", status.partition("VmHWM:")[2].split()[0])
"""


def run_as_processes(files: dict[str, bytes], count: int, tmp_path: Path) -> None:
    write_atomic(tmp_path / "validate.pyz", validator_bytes())
    for number in range(10_000, 10_000 + count):
        folder = tmp_path / str(number)
        folder.mkdir()
        what, path = hostile_bundle(files, number, folder)
        done = subprocess.run(
            [sys.executable, "-c", AND_TELL_MEMORY, "validate.pyz", str(path)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, (what, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (what, done.stderr)
        assert int(done.stdout.split()[-1]) * 1024 < MOST_MEMORY_BYTES, what
        shutil.rmtree(folder)


def keys(folder: Path) -> tuple[Path, Path]:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pair = folder / "key.pem", folder / "key.pub"
    pair[0].write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    pair[1].write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return pair


def thresholds_raised(files: dict[str, bytes]) -> dict[str, bytes]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["thresholds"]["max_asr"] = 0.99

    return rehashed(files, change)


def patches_blanked(files: dict[str, bytes]) -> dict[str, bytes]:
    npz, about = patch_set_bytes(patch_set("loud", 1, 0))
    return rehashed(files | {"patches/patch-001.npz": npz, "patches/patch-001.json": about})


def model_exchanged(files: dict[str, bytes]) -> dict[str, bytes]:
    other = residual_graph(np.random.default_rng(99), size=8, bits=8).model()
    return rehashed(files | {"models/onnxruntime-4.onnx": other.SerializeToString()})


@pytest.mark.parametrize("attack", [thresholds_raised, patches_blanked, model_exchanged])
def test_what_an_attacker_rehashed_fails_where_a_signature_is_required(
    attack: Any,
    contents: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from deploy.bundle import bundle_files

    monkeypatch.chdir(tmp_path)
    private, public = keys(tmp_path)
    signed = bundle_files(contents, signing_key=private)
    path = tmp_path / "signed.qbundle"
    write_stored_zip(path, signed)
    assert main([str(path), "--require-signature", str(public)]) == 0
    assert "signed by key.pub" in capsys.readouterr().out
    for stripped in (False, True):
        parts = dict(signed)
        if stripped:
            del parts["manifest.sig"]
        write_stored_zip(path, attack(parts))
        assert main([str(path), "--require-signature", str(public)]) == 2
        said = capsys.readouterr().err
        assert "signature" in said or "not signed" in said


def test_an_exchanged_model_departs_from_the_golden_codes(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "exchanged.qbundle"
    write_stored_zip(path, model_exchanged(files))
    assert main([str(path)]) == 2
    assert "differ from the golden ones" in capsys.readouterr().err


def test_a_missing_cryptography_is_named(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", ".exceptions", ".hazmat.primitives.asymmetric"):
        monkeypatch.setitem(sys.modules, f"cryptography{name}", None)
    path = tmp_path / "b.qbundle"
    write_stored_zip(path, files)
    assert main([str(path), "--require-signature", "key.pub"]) == 2
    assert "pip install cryptography" in capsys.readouterr().err
