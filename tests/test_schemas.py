"""The published schemas are current, and every committed record fits its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from benchmarks.schemas import FOLDER, FORMS
from deploy.core.errors import InputError
from deploy.core.records import read_record
from training.config import load_config
from training.defenses import resolved
from training.record_types import payload_of, record_form
from training.validated import checked

ROOT = Path(__file__).resolve().parents[1]
RECORDS = [
    path
    for path in sorted((ROOT / "results").rglob("*.json"))
    if set(json.loads(path.read_text())) == {"format_version", "kind", "payload", "provenance"}
]
BY_KIND = {path.name.rsplit("-", 1)[0]: path for path in RECORDS}


def schema_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return schema


def test_every_published_schema_is_listed() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in FOLDER.glob("*.json")]
    assert [name for name in names if f"]({name})" not in listed] == []


def test_every_committed_record_fits_its_schema() -> None:
    assert len(RECORDS) > 300
    forms = {kind: record_form(kind, form) for kind, form in FORMS.items()}
    published = {
        kind: jsonschema.Draft202012Validator(schema_of(f"record-{kind}.json")) for kind in forms
    }
    for path in RECORDS:
        record = read_record(path)
        assert checked(forms[record["kind"]], record, str(path)) is record
        published[record["kind"]].validate(record)


def test_committed_configs_fit_the_schema_and_wrong_ones_do_not() -> None:
    published = jsonschema.Draft202012Validator(schema_of("config.json"))
    configs = sorted((ROOT / "configs").glob("*.toml"))
    assert configs
    for path in configs:
        table = resolved(load_config(path)).as_dict()
        published.validate(table)
        assert not published.is_valid(table | {"seed": -1})
        assert not published.is_valid(table | {"defense": table["defense"] | {"strength": 1}})


def _set(*place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(payload: dict[str, Any]) -> None:
        part: Any = payload
        for step in place[:-1]:
            part = part[step]
        part[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("evaluation", _set("outcomes", value={"n": 100}), r"'outcomes\.first_index' is missing"),
        ("evaluation", _set("outcomes", "n", value=100), "outcomes: expected 100 different"),
        ("evaluation", _set("outcomes", "success", value="ff"), "outcomes: expected .* flags"),
        ("evaluation", _set("outcomes", "indices", value=[1]), "different indices, got 1"),
        ("evaluation", _set("patch", "sha256", value=["a"]), r"patch\.sha256 must be text; got"),
        ("evaluation", _set("model", "file_sha256", value="a"), r"model\.file_sha256 must be text"),
        ("evaluation", _set("asr", "k", value=-1), r"asr\.k must be at least 0; got -1"),
        ("evaluation", _set("asr", "k", value=10**6), "asr: expected k of n"),
        ("evaluation", _set("asr", "low", value=1.0), "asr: expected low ≤ value ≤ high"),
        ("evaluation", _set("asr", "n", value=0), r"asr\.n must be at least 1; got 0"),
        ("evaluation", _set("model", "bit_width", value=4.5), r"model\.bit_width must be a whole"),
        ("evaluation", _set("patch", "size_px", value=[8]), r"patch\.size_px must be a list of at"),
        ("evaluation", _set("patch", "extra", value=1), r"unknown key 'patch\.extra'"),
        ("attack-checks", _set("checks", 0, "status", value="fine"), "passed, tripped, undecided"),
        ("pixel-attack", _set("attack", value="magic"), "attack must be one of"),
        ("adaptive", _set("stages", 0, "won", value=-1), r"stages\[0\]\.won must be at least 0"),
        ("patch-locations", _set("bits", 0, "successes", value=[["x"]]), "must be a whole number"),
        ("examples", _set("items", 0, "clean_png", value="?"), "clean_png must be text of the"),
        ("certificate", _set("layers", 0, "operator", value=None), r"layers\[0\]\.operator must"),
        ("parity", _set("model_sha256", value=7), "model_sha256 must be text; got 7"),
    ],
)
def test_impossible_content_is_refused(
    kind: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    record = copy.deepcopy(read_record(BY_KIND[kind]))
    payload_of(record, FORMS[kind])
    change(record["payload"])
    with pytest.raises(InputError, match=said):
        payload_of(record, FORMS[kind])


def test_an_attack_has_its_true_name_in_records_of_before() -> None:
    from eval.measure.pixel_record import pixels_from_records

    record = copy.deepcopy(read_record(BY_KIND["pixel-attack"]))
    record["payload"]["attack"] = "autoattack"
    (found,) = pixels_from_records([record])
    assert found["attack"] == "autoattack-deepfool"
