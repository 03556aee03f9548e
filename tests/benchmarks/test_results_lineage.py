"""The trainings behind a network, from the checkpoints in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.results_lineage import Lineage, lineages
from deploy.core.files import sha256_of_bytes

FORM = {"format": "qadtr-checkpoint", "format_version": 2}


def of(weights: str) -> str:
    """The digest of a file of weights."""
    return sha256_of_bytes(weights.encode())


def checkpoint(
    path: Path, weights: str, epochs: float, start: str | None = None, **config: Any
) -> None:
    """A checkpoint as far as its lineage goes."""
    path.mkdir(parents=True)
    (path / "checkpoint.safetensors").write_text(weights)
    whole = {
        "network": {"bit_widths": [32, 8]},
        "data": {},
        "defense": {"name": "qadtr"},
        "training": {"epochs": epochs, "warm_start": start and "start/checkpoint.safetensors"},
        **config,
    }
    known = {} if start in (None, "older") else {"warm_start_sha256": of(start)}
    (path / "checkpoint.json").write_text(
        json.dumps({**FORM, "sha256": of(weights), "config": whole, **known})
    )


def test_a_lineage_goes_back_to_random_weights_from_start_to_start(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a" / "float", "1", 20, network={"bit_widths": [32]})
    checkpoint(tmp_path / "b" / "plain", "2", 12, "1", defense={"name": "qat"})
    checkpoint(tmp_path / "a" / "squares", "3", 2.5, "2", data={"masks": 0.75})
    found = lineages(tmp_path)
    assert set(found) == {of("1"), of("2"), of("3")}
    assert str(found[of("1")]) == "20 epochs of float training"
    assert str(found[of("3")]) == (
        "20 epochs of float training, 12 of plain QAT, 2.5 of QADT-R with grey squares"
    )
    assert found[of("3")].epochs == "20 + 12 + 2.5"


def test_a_start_that_is_not_there_is_said(tmp_path: Path) -> None:
    checkpoint(tmp_path / "gone", "1", 3, "9")
    checkpoint(tmp_path / "older", "2", 3, "older")
    checkpoint(tmp_path / "after", "3", 1, "1")
    found = lineages(tmp_path)
    assert {str(found[of(weights)]) for weights in "12"} == {"another network, 3 epochs of QADT-R"}
    assert found[of("3")].epochs == "? + 3 + 1"
    assert str(Lineage()) == ""
