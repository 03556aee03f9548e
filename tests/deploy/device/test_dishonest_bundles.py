"""None of the bundles of a lab that signs what must not ship passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploy.core.stored_zip import write_stored_zip
from deploy.device.command import main
from tests.deploy.device.dishonest import ATTACKS, dishonest_bundle, loud_is_gated, signed
from tests.deploy.device.test_hostile_bundles import keys

THOROUGH = 200


def refuse_all(
    files: dict[str, bytes],
    numbers: range,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> set[int]:
    """Validate them in a working folder of their own; the exit codes that came."""
    private, public = keys(tmp_path)
    codes = set()
    for number in numbers:
        folder = tmp_path / "now"
        folder.mkdir()
        monkeypatch.chdir(folder)
        what, words, parts = dishonest_bundle(files, number, folder, private)
        write_stored_zip(folder / "b.qbundle", parts)
        code = main(["b.qbundle", "--require-signature", str(public)])
        said = capsys.readouterr()
        assert code in (1, 2, 3), (what, said)
        assert "unexpected" not in said.err, (what, said.err)
        report = json.loads(Path("report.json").read_text())
        assert report["bundle"]["authentication"] == "signed by key.pub", (what, said)
        assert words in report["reason"], (what, report["reason"])
        codes.add(code)
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
    return codes


def test_every_attack_of_a_dishonest_lab_is_refused(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = refuse_all(files, range(2 * len(ATTACKS)), tmp_path, monkeypatch, capsys)
    assert {2, 3} <= found


@pytest.mark.hostile
def test_200_bundles_of_a_dishonest_lab(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse_all(files, range(1000, 1000 + THOROUGH), tmp_path, monkeypatch, capsys)


def test_the_bundle_without_an_attack_is_measured(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the attacks start from: signed and whole, it fails its gate or, with another, passes."""
    monkeypatch.chdir(tmp_path)
    private, public = keys(tmp_path)
    write_stored_zip(tmp_path / "b.qbundle", signed(loud_is_gated(files), private))
    words = ["b.qbundle", "--require-signature", str(public)]
    assert main(words) == 1
    assert main([*words, "--max-asr", "0.95"]) == 0
    write_stored_zip(tmp_path / "b.qbundle", signed(files, private))
    assert main(words) == 0
