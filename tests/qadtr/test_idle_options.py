"""Options that would do nothing are refused, and sizes are pixels or shares of the image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qadtr.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "RUN", "--patches", "p", "--images", "5"], "--images has no effect without"),
        (["eval", "RUN", "--patches", "p", "--seed", "0"], "--seed has no effect without"),
        (["eval", "RUN", "--patches", "p", "--set", "steps=2"], "--set has no effect without"),
        (
            ["eval", "RUN", "--patches", "p", "--random-precision", "--images", "2"],
            "--images, --random-precision has no effect without --adaptive",
        ),
        (["eval", "RUN", "--adaptive", "--no-drift"], "--no-drift has no effect with --adaptive"),
        (["eval", "RUN", "--adaptive", "--threads", "2"], "--threads has no effect with"),
        (
            ["patch", "RUN", "--attack", "lavan", "--made-from", "9"],
            "--made-from (made_from) has no effect where each patch is made on its own image",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    words: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(trained) if word == "RUN" else word for word in words]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_patch_of_a_share_of_the_image(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["patch", str(trained), "--attack", "lavan", "--steps", "2", "--images", "8"]
    assert main([*words, "--size", "5%", "--out", str(tmp_path / "a.npz")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["size_px"] == [7, 7]  # of 32×32
    assert main([*words, "--set", "size_px=5%", "--out", str(tmp_path / "b.npz")]) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--size", "0"])
    assert stopped.value.code == 4
    assert "such as 5%; got '0'" in capsys.readouterr().err
