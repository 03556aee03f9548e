"""Where patches came from: typed here, and in the keys that sidecars always had on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import InputError
from deploy.core.patch_origin import PatchOrigin, PatchSource, TriedOn
from deploy.core.patch_set import patch_set_bytes, read_patch_set

RESULTS = Path(__file__).parents[3] / "results"
TRIED_ON = TriedOn(name="digits", split="test", digest="0" * 64)
ORIGINS = {
    "white-box": (
        PatchOrigin(
            attack="lavan",
            settings={"size_px": 6, "steps": 0},
            seed=0,
            source=PatchSource(network="resnet8", seed=3, bit_widths=[32]),
            area={"px": 36, "share": 0.04},
            more={"on_source": [], "queries_per_image": None},
        ),
        {
            "attack": "lavan",
            "settings": {"size_px": 6, "steps": 0},
            "seed": 0,
            "made_on": None,
            "source": {"network": "resnet8", "seed": 3, "bit_widths": [32]},
            "area": {"px": 36, "share": 0.04},
            "on_source": [],
            "queries_per_image": None,
        },
    ),
    "supplied": (
        PatchOrigin(seed=5, tried_on=TRIED_ON, more={"supplied": {"number": 0}}),
        {"attack": None, "seed": 5, "tried_on": dict(TRIED_ON), "supplied": {"number": 0}},
    ),
    "unknown": (PatchOrigin(), {"attack": None}),
}


@pytest.mark.parametrize(("origin", "values"), ORIGINS.values(), ids=ORIGINS)
def test_the_keys_of_the_sidecar_there_and_back(
    origin: PatchOrigin, values: dict[str, Any]
) -> None:
    assert origin.to_json() == values
    assert PatchOrigin.from_json(json.loads(json.dumps(values))) == origin


def test_sidecars_on_disk_are_read_and_written_byte_for_byte() -> None:
    files = sorted(RESULTS.glob("**/patches/*.npz"))
    assert files
    for path in files:
        read = read_patch_set(path)
        assert read.origin.attack in ("lavan", "gap")
        assert read.origin.tried_on is not None
        assert patch_set_bytes(read) == (path.read_bytes(), path.with_suffix(".json").read_bytes())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "expected provenance as an object, got list"),
        ({"attack": 3}, "expected provenance.attack as text, got int"),
        ({"seed": "3"}, "expected provenance.seed as a whole number, got str"),
        ({"source": "a network"}, "expected provenance.source as an object, got str"),
        ({"tried_on": {"name": "digits", "split": "test"}}, "provenance.tried_on.digest as text"),
    ],
)
def test_values_of_another_type_are_refused(values: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PatchOrigin.from_json(values)
