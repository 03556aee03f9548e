"""The configs that come along: by name, listed, printed, and in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qadtr.__main__ import main
from qadtr.config_files import config_file, config_from

ROOT = Path(__file__).resolve().parents[2]


def test_each_config_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
    assert [line.split()[0] for line in lines[: len(names)]] == names
    assert all(len(line.split()) > 3 for line in lines[: len(names)])


def test_a_config_by_its_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_from("cifar10-resnet8-source", {"seed": 5})
    assert (config.name, config.seed, config.defense) == (
        "cifar10-resnet8-source",
        5,
        {"name": "qat"},
    )
    # A file of the user's comes first; a path is a path.
    (tmp_path / "mine").write_text((ROOT / "configs" / "cifar10-resnet8.toml").read_text())
    assert config_file("mine") == Path("mine")
    assert config_file("configs/x") == Path("configs/x")
    assert main(["train", "cifar10-resnt8"]) == 2
    line = capsys.readouterr().err
    assert (
        "there is no config cifar10-resnt8, did you mean cifar10-resnet8; `qadtr configs`" in line
    )
    assert main(["train", "cifar10-resnet8"]) == 2
    assert "--data DIR" in capsys.readouterr().err
    assert main(["configs", "cifar10-resnet8"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "cifar10-resnet8.toml").read_text()


@pytest.mark.slow
def test_the_wheel_has_every_config_and_the_installed_command_finds_them(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(copy)], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)],
        check=True,
    )
    (wheel,) = tmp_path.glob("qadtr-*.whl")
    held = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert {path.name for path in (ROOT / "configs").rglob("*.toml")} <= held
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True
    )
    program = f"import sys; sys.path.insert(0, {str(site)!r}); from qadtr.__main__ import main; "
    done = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(main(['configs']))"],
        cwd=tmp_path,
        env={"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cifar10-resnet8-source" in done.stdout
