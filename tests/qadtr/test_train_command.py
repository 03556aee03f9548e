"""`qadtr train` on the digits and on bad input, through the command itself."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from qadtr.__main__ import main

CONFIG = """
name = "small"
seed = 3

[data]
kind = "digits"
augment = "crop"

[network]
name = "resnet8"
bit_widths = [32, 2]

[training]
epochs = 0.3
batch_size = 32

[defense]
name = "qadtr"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def refusal(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The one line that a refused command prints."""
    assert main(words) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("qadtr: ")
    assert "unexpected" not in lines[0]
    return lines[0]


def test_a_run_that_is_killed_and_resumed_ends_with_the_bytes_of_an_unbroken_one(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    words = ["train", str(config), "--save-every", "4"]
    assert main([*words, "--out", str(unbroken)]) == 0
    assert capsys.readouterr().out.strip() == str(unbroken / "checkpoint.safetensors")

    # The kill: the state after step 8, as the atomic write left it, and no checkpoint.
    from training.config import load_config
    from training.data import load_images
    from training.loop import RunOptions, train

    train(
        load_config(config),
        load_images("digits", None, "train", size=32),
        load_images("digits", None, "holdout", size=32),
        broken,
        RunOptions(save_every=4, stop_after=8),
        dict,
    )
    assert not (broken / "checkpoint.safetensors").exists()

    assert main([*words, "--out", str(broken), "--resume"]) == 0
    one, other = (folder / "checkpoint.safetensors" for folder in (unbroken, broken))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_is_not_replaced_unasked(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"precious")
    line = refusal(["train", str(config), "--out", str(folder)], capsys, code=4)
    assert "--overwrite" in line
    assert (folder / "checkpoint.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["--set", "training.epoch=3"],
            2,
            "unknown key 'training.epoch'; did you mean 'epochs'?",
        ),
        (["--set", "optimizer.name=adam"], 2, "unknown key 'optimizer'"),
        (["--set", "training.epochs=soon"], 2, "training.epochs must be a number; got"),
        (["--set", "defense.name=magic"], 2, "defense.name must be one of qat, pbat"),
        (["--set", "defense.gir_nois=1"], 2, "unknown key 'gir_nois'"),
        (["--set", "network.name=resnet9"], 2, "resnet20"),
        (["--set", "network.bit_widths=[32, 1]"], 2, "bit-widths must be 32"),
        (["--set", "data.kind=cifar10"], 2, "--data DIR"),
        (["--set", "data.kind=cifar10", "--data", "missing"], 2, "missing does not exist"),
        (["--set", "training.epochs"], 4, "expects KEY=VALUE"),
        (["--resume"], 2, "nothing to resume"),
    ],
)
def test_bad_settings(
    words: list[str],
    code: int,
    said: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    line = refusal(["train", str(config), "--out", str(folder), *words], capsys, code=code)
    assert said in line
    assert not (folder / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("name = ", "cannot be read as TOML"), ("seed = 1", "the key"), (None, "there is no config")],
)
def test_bad_config(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    assert said in refusal(["train", str(path)], capsys)


class Planted:
    """Unpickles by importing and calling something: what a hostile batch file does."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the pickle was executed')",))


def batches(tmp_path: Path, first: bytes) -> Path:
    """A `cifar-10-batches-py` of five small batches, the first of which holds `first`."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        content = {
            b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            b"labels": [index % 10 for index in range(20)],
        }
        data = pickle.dumps(content, protocol=2) if number > 1 else first
        (folder / f"data_batch_{number}").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (pickle.dumps({b"data": np.zeros((20, 3072), np.uint8)}, protocol=2)[:200], "data_batch_1"),
        (pickle.dumps({b"data": Planted()}, protocol=2), "data_batch_1"),
        (b"", "data_batch_1"),
    ],
)
def test_a_damaged_or_hostile_batch_file(
    first: bytes,
    said: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = batches(tmp_path, first)
    words = ["train", str(config), "--set", "data.kind=cifar10", "--data", str(data)]
    assert said in refusal(words, capsys)


def test_an_archive_without_batches(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("something/else"), io.BytesIO())
    words = ["train", str(config), "--set", "data.kind=cifar10", "--data", str(tmp_path)]
    assert "data_batch_1" in refusal(words, capsys)


def test_resume_refuses_the_state_of_another_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["train", str(config), "--out", str(folder), "--set", "training.epochs=0.05"]
    assert main(words) == 0
    capsys.readouterr()
    # As a version wrote it that did not know one of the settings.
    start = json.loads((folder / "run.json").read_text())
    del start["config"]["data"]["mask_tries"]
    (folder / "run.json").write_text(json.dumps(start))
    line = refusal([*words, "--set", "seed=4", "--resume"], capsys)
    assert "another config: seed is 4, but the run has 3;" in line
