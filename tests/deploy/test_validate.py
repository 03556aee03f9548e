"""`python -m deploy.validate`: the device's gate with an engine that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.device.stored_zip import write_stored_zip
from deploy.validate import main
from tests.deploy.device.conftest import contents, files

__all__ = ["contents", "files"]  # fixtures


def test_engines_by_name(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_stored_zip(tmp_path / "b.qbundle", files)
    assert main(["b.qbundle", "--engine", "onnxruntime"]) == 0
    capsys.readouterr()
    assert main(["b.qbundle", "--engine", "abacus"]) == 4
    assert "available: onnxruntime" in capsys.readouterr().err
