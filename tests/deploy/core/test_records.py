from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError
from deploy.core.records import provenance, published_records, read_records, write_record

ORIGIN: dict[str, Any] = {"date": "2026-01-01T00:00:00+00:00", "commit": "abc", "dirty": False}


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_records_come_back_oldest_first_and_by_kind(tmp_path: Path) -> None:
    late = write_record(tmp_path, "latency", {"p50_ms": np.float64(1.5)}, ORIGIN | {"date": "2027"})
    early = write_record(tmp_path, "attack-success", {"asr": 0.5, "n": np.int64(8)}, ORIGIN)
    assert early.name.startswith("attack-success-")
    records = read_records(tmp_path)
    assert [record["kind"] for record in records] == ["attack-success", "latency"]
    assert records[0] == json.loads(early.read_text())
    assert records[0]["payload"] == {"asr": 0.5, "n": 8}
    assert records[0]["provenance"] == ORIGIN
    assert [json.loads(late.read_text())] == read_records(tmp_path, "latency")
    assert read_records(tmp_path, "other") == []


def test_the_same_record_is_one_file_and_another_is_another(tmp_path: Path) -> None:
    first = write_record(tmp_path, "a", {"x": 1, "y": [1.0, 2.5e-9]}, ORIGIN)
    assert write_record(tmp_path, "a", {"y": [1.0, 2.5e-9], "x": 1}, dict(ORIGIN)) == first
    assert write_record(tmp_path, "a", {"x": 2, "y": [1.0, 2.5e-9]}, ORIGIN) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_an_edited_renamed_or_damaged_record_is_named(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", {"asr": 0.25}, ORIGIN)
    text = path.read_text()
    cases = {
        text.replace("0.25", "0.15"): "edited",
        text[: len(text) // 2]: "not valid JSON",
        text.replace('"format_version": 1', '"format_version": 9'): "format version 9",
        text.replace('"payload": {', '"payload": {"x": NaN,'): "NaN",
        json.dumps([1]): "not a record",
        json.dumps({"format_version": 1}): "expected",
        json.dumps(json.loads(text) | {"payload": []}): "payload as an object",
        json.dumps(json.loads(text) | {"more": 1}): "more",
    }
    for damaged, words in cases.items():
        path.write_text(damaged)
        with pytest.raises(InputError, match=words) as caught:
            read_records(tmp_path)
        assert path.name in str(caught.value)
    path.write_text(text)
    assert len(read_records(tmp_path)) == 1
    path.rename(tmp_path / "b-0123456789abcdef.json")
    with pytest.raises(InputError, match=path.name):
        read_records(tmp_path, "a")


def test_bad_arguments(tmp_path: Path) -> None:
    for kind in ("", "A", "a b", "../a", "a-", "a\n"):
        with pytest.raises(InputError, match="lower-case words"):
            write_record(tmp_path, kind, {}, ORIGIN)
    with pytest.raises(InputError):
        write_record(tmp_path, "a", {"asr": float("nan")}, ORIGIN)
    with pytest.raises(InputError, match="is not a folder"):
        read_records(tmp_path / "none")
    assert read_records(tmp_path) == []


def test_provenance_of_a_checkout(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    assert provenance(repository=tmp_path)["commit"] is None  # no commit yet
    (tmp_path / "file").write_text("a")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-q", "-m", "first")
    facts = provenance(repository=tmp_path, seed=3, config={"bits": [8, 4]}, engine="x")
    assert facts["commit"] == _git(tmp_path, "rev-parse", "HEAD")
    assert facts["dirty"] is False
    assert (facts["seed"], facts["config"], facts["engine"]) == (3, {"bits": [8, 4]}, "x")
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["host"]["cores"] >= 1
    assert facts["date"].endswith("+00:00")
    (tmp_path / "file").write_text("b")
    assert provenance(repository=tmp_path)["dirty"] is True
    records = tmp_path / "records"
    write_record(records, "a", {}, facts)
    assert read_records(records)[0]["provenance"] == facts


def test_provenance_without_a_checkout_says_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = provenance(repository=tmp_path)
    assert (facts["commit"], facts["dirty"]) == (None, None)
    assert provenance()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert provenance(repository=Path(__file__).parents[3])["commit"] is None


def test_the_command_has_no_folders_of_this_machine() -> None:
    argv = ["/opt/me/.venv/bin/qadtr", "train", "configs/a.toml", "--data=/data/cifar", "/x/y/"]
    expected = ["…/qadtr", "train", "configs/a.toml", "--data=…/cifar", "…/y"]
    argv += ["--set", 'training.warm_start="/x/a.safetensors"', "--set=training.weights='/x/b.pt'"]
    expected += [
        "--set",
        'training.warm_start="…/a.safetensors"',
        "--set=training.weights='…/b.pt'",
    ]
    argv += ["--out", "runs/a=b", "--set", "data.masks=0.75", "/data/a=/b"]
    expected += ["--out", "runs/a=b", "--set", "data.masks=0.75", "…/b"]
    assert provenance(argv=argv)["command"] == expected


def test_provenance_keeps_its_own_names() -> None:
    with pytest.raises(InputError, match="date"):
        provenance(date="yesterday")


def test_what_a_dirty_tree_made_is_read_but_not_published(tmp_path: Path) -> None:
    assert published_records(tmp_path / "none") == []
    write_record(tmp_path, "latency", {"p50_ms": 1.5}, ORIGIN)
    assert published_records(tmp_path) == read_records(tmp_path)
    path = write_record(tmp_path, "asr", {"asr": 0.5}, ORIGIN | {"dirty": True})
    assert len(read_records(tmp_path)) == 2
    with pytest.raises(InputError, match=rf"{path.name} was made from a dirty tree \(commit abc"):
        published_records(tmp_path, "latency")
