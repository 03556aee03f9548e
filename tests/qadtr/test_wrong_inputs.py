"""What a user gets wrong is one line that says what was expected, and loses nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qadtr.__main__ import main
from tests.qadtr.conftest import CONFIG


@pytest.fixture
def copied(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the exported run as RUN, its config, and a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, tmp_path / "RUN", ignore=shutil.ignore_patterns("patches"))
    (tmp_path / "small.toml").write_text(CONFIG)
    (tmp_path / "file").write_text("kept")
    return tmp_path


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def code_of(words: str) -> object:
    try:
        return main(words.split())
    except SystemExit as ended:  # the argument parser's
        return ended.code


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("train small.toml --set seed=-1", 2, "seed must be at least 0; got -1"),
        ("train small.toml --out file", 2, "Not a directory; "),
        (
            "train small.toml --out new --device gpu",
            2,
            "no device 'gpu' on this machine; available: cpu",
        ),
        (
            "patch RUN --attack lavan --device gpu",
            2,
            "no device 'gpu' on this machine; available: cpu",
        ),
        (
            "pixel RUN --attack fgsm --device gpu",
            2,
            "no device 'gpu' on this machine; available: cpu",
        ),
        ("patch RUN --attack sparse-rs --bits 4 --engine foo", 2, "unknown engine 'foo'; avail"),
        ("eval RUN --patches nowhere", 2, "there is no patch file or folder nowhere"),
        ("analyze RUN --patches nowhere", 2, "there is no patch file or folder nowhere"),
        ("validator --out .", 2, "cannot write"),
        ("patch RUN", 4, "one of the arguments --attack --supplied is required; see qadtr patch"),
        ("parity RUN --target foo", 4, "invalid choice: 'foo'"),
    ],
)
def test_it_is_told_in_one_line(
    copied: Path, words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(copied)
    capsys.readouterr()
    assert code_of(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qadtr")
    assert said in line
    assert "unexpected" not in line
    assert files_below(copied) == before


def test_a_file_in_the_place_of_a_folder_is_named(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "RUN" / "export")
    (copied / "RUN" / "export").write_text("kept")
    assert main(["export", "RUN", "--bits", "4"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("qadtr: RUN/export: File exists; check the path")
    assert (copied / "RUN" / "export").read_text() == "kept"


@pytest.fixture
def patched(copied: Path) -> Path:
    words = ["--attack", "lavan", "--size", "6", "--steps", "1", "--images", "12"]
    for seed in ("0", "1"):
        assert main(["patch", "RUN", *words, "--seed", seed]) == 0
    return copied


def test_two_patch_sets_of_one_name_in_a_bundle(
    patched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted((patched / "RUN" / "patches").glob("*.npz"))
    assert main(["bundle", "RUN", "--bits", "4", "--out", "b.qbundle"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{first.name} and RUN/patches/{second.name} are both named 'lavan-" in line
    assert "choose the files with --patches" in line
    assert not (patched / "b.qbundle").exists()


def test_pictures_alone_have_no_table(patched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--patches", "RUN/patches", "--bits", "4", "--images", "4", "--what", "gradient-maps"]
    assert main(["analyze", "RUN", *words]) == 0
    assert "2 record(s) with pictures only; `qadtr report RUN`" in capsys.readouterr().out
    assert len(list((patched / "RUN" / "records").glob("gradient-maps-*.json"))) == 2


def test_run_folders_are_compared_by_their_records(
    patched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = min((patched / "RUN" / "patches").glob("*.npz"))
    words = ["--patches", str(first), "--bits", "4", "--no-latency", "--no-drift"]
    assert main(["eval", "RUN", *words]) == 0
    assert main(["compare", "RUN", "RUN", "--json", "runs.json"]) == 0
    assert main(["compare", "RUN/records", "RUN/records", "--json", "records.json"]) == 0
    assert Path("runs.json").read_bytes() == Path("records.json").read_bytes()
