"""One small run, made once by the command, for the commands that start from a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from qadtr.__main__ import main

CONFIG = """
name = "small"
seed = 3

[data]
kind = "digits"
augment = "none"

[network]
name = "resnet8"
bit_widths = [32, 4]

[training]
epochs = 5
batch_size = 32
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run at 32 and 4 bits; copy it before you change it."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "small.toml"
    config.write_text(CONFIG)
    run = folder / "small"
    assert main(["train", str(config), "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def exported(trained: Path) -> Path:
    """The same folder with its models at 32 and 4 bits."""
    assert main(["export", str(trained), "--images", "32"]) == 0
    return trained
