"""What an error says to type is typed here as it is, and mends it."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from qadtr.__main__ import main
from training.data import Images, ImageSet, load_images
from training.run_folder import RunFolder

pytestmark = pytest.mark.slow

CONFIG = """
name = "arrays"
seed = 3

[data]
kind = "npz"
augment = "none"

[network]
name = "resnet8"
bit_widths = [32, 4]

[training]
epochs = 4
batch_size = 32
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("remedies")
    data = folder / "my images"
    for split, name in (("train", "train"), ("test", "test")):
        digits = load_images("digits", None, split, size=32)
        images = ImageSet.from_arrays(
            np.ascontiguousarray(digits.images), digits.labels, digits.classes, name="d", split=name
        )
        images.write(data)
    (folder / "arrays.toml").write_text(CONFIG)
    run = folder / "run"
    assert main(["train", str(folder / "arrays.toml"), "--data", str(data), "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def remedy(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> list[str]:
    """The words of the command that the error of ``words`` ends with."""
    capsys.readouterr()
    assert main(words) == code
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("qadtr:")]
    found = re.search(r": (qadtr .*)$", line)
    assert found is not None, line
    return shlex.split(found[1])[1:]


def test_from_a_run_to_a_report_by_following_the_errors(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(made_of(run))
    small = {"export": ["--images", "96"], "patch": ["--steps", "2", "--images", "24"]}
    said: list[str] = []
    while True:
        capsys.readouterr()
        if main(["report", str(run)]) == 0:
            break
        assert len(said) < 4, said
        words = remedy(["report", str(run)], capsys, code=3)
        said.append(words[0])
        assert words[words.index("--data") + 1] == data
        assert main([*words, *small.get(words[0], [])]) == 0
    assert said == ["export", "patch", "eval"]


def made_of(run: Path) -> Images | None:
    return RunFolder.open(run).data


def test_each_remedy_is_a_command_that_mends_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bundle", str(run), "--bits", "4", "--out", str(tmp_path / "b")]
    export = remedy(words, capsys)
    assert export == ["export", str(run), "--data", str(made_of(run)), "--bits", "4"]
    assert main([*export, "--images", "96"]) == 0
    patch = remedy(words, capsys)
    assert patch[:2] == ["patch", str(run)]
    assert main([*patch, "--images", "24", "--steps", "2"]) == 0
    assert main(words) == 0  # the run knows its images
    # A model of another checkpoint.
    again = run / "checkpoint.safetensors"
    more = ["train", str(run.parent / "c.toml"), "--overwrite", "--out", str(run)]
    (run.parent / "c.toml").write_text(CONFIG.replace("seed = 3", "seed = 4"))
    assert main([*more, "--data", str(made_of(run)), "--set", "training.epochs=1"]) == 0
    assert again.is_file()
    assert remedy(words, capsys) == ["export", str(run), "--bits", "4"]
    # An interrupted training.
    again.unlink()
    assert remedy(["export", str(run)], capsys) == ["train", "--resume", "--out", str(run)]
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert again.is_file()


def test_a_run_that_is_not_there_names_one_that_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.parent / "runn")]) == 2
    assert f"did you mean {run}?" in capsys.readouterr().err


def test_images_that_are_not_there_name_the_folder_to_fetch_them_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "my data"
    assert main(["train", "cifar10-resnet8", "--data", str(where)]) == 2
    assert f"qadtr data cifar10 '{where}'" in capsys.readouterr().err
