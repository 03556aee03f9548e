"""Engine files and their sidecars: what was changed, exchanged or built elsewhere is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from deploy.core.errors import InputError
from deploy.core.strict_json import write_json
from deploy.tensorrt.bindings import TENSORRT, TENSORRT_RTX, Bindings, Flavour, Log
from deploy.tensorrt.engine_file import read_engine_file, sidecar_of, write_engine_file

ONNX = "a" * 64
SCHEMA = Path(__file__).parents[3] / "deploy/tensorrt/schemas/tensorrt-engine-1.json"
FACTS: dict[str, Any] = {
    "onnx_sha256": ONNX,
    "builder": {"name": "tensorrt", "version": "10.16.1.11"},
    "options": {
        "batch_sizes": [1, 64, 64],
        "optimization_level": None,
        "hardware": "this-gpu",
        "version_compatible": False,
    },
    "built_on": {"name": "a GPU", "compute_capability": "8.6"},
    "timing_cache_sha256": None,
    "input_shape": [3, 32, 32],
    "batch_sizes": [1, 64, 64],
    "classes": 10,
    "kinds": {"convolution": 1},
    "layers": [
        {
            "name": "stem",
            "operator": "CaskConvolution",
            "inputs": ["int8"],
            "weights": ["int8"],
            "outputs": ["int8"],
            "nodes": ["stem.conv"],
        }
    ],
    "layers_from": "inspector",
    "note": "",
}


def bindings(version: str = "10.16.1.11", flavour: Flavour = TENSORRT) -> Bindings:
    return Bindings(flavour=flavour, api=None, version=version, log=Log(), logger=None)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "m.engine"
    write_engine_file(path, b"a plan", FACTS)
    return path


def test_what_was_written_is_read_and_fits_the_schema(engine: Path) -> None:
    plan, facts = read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings())
    assert plan == b"a plan" and facts["builder"] == FACTS["builder"]
    jsonschema.validate(facts, json.loads(SCHEMA.read_text()))
    assert sorted(path.name for path in engine.parent.iterdir()) == ["m.engine", "m.engine.json"]


def change(engine: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    facts = json.loads(sidecar_of(engine).read_text())
    edit(facts)
    write_json(sidecar_of(engine), facts)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda f: f.update(format="else"), "does not describe"),
        (lambda f: f.update(format_version=2), "format version '2'"),
        (lambda f: f.pop("layers"), "lacks layers"),
        (lambda f: f.update(layers=[]), "layers"),
        (lambda f: f["builder"].update(name="abacus"), "builder.name"),
        (lambda f: f["engine"].update(size_bytes=7), "changed or damaged"),
        (lambda f: f.update(onnx_sha256="b" * 64), "another ONNX file"),
        (lambda f: f.update(more=1), "unknown field"),
    ],
)
def test_a_changed_sidecar_is_refused(
    engine: Path, edit: Callable[[dict[str, Any]], Any], says: str
) -> None:
    change(engine, edit)
    with pytest.raises(InputError, match=says):
        read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings())


@pytest.mark.parametrize("plan", [b"", b"a pla", b"a plaN", b"another plan"])
def test_a_changed_engine_is_refused(engine: Path, plan: bytes) -> None:
    engine.write_bytes(plan)
    with pytest.raises(InputError, match="changed or damaged"):
        read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings())


def test_a_missing_half_is_named(engine: Path) -> None:
    sidecar_of(engine).unlink()
    with pytest.raises(InputError, match=r"m\.engine\.json does not exist"):
        read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings())


@pytest.mark.parametrize("version", ["10.16.1.12", "11.4.0.106", "10.9.0.34"])
def test_another_version_is_refused(engine: Path, version: str) -> None:
    with pytest.raises(InputError, match=rf"built by tensorrt 10\.16\.1\.11, but {version} is"):
        read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings(version))


def test_a_version_compatible_engine_is_for_later_versions_alone(engine: Path) -> None:
    change(engine, lambda facts: facts["options"].update(version_compatible=True))
    read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings("11.4.0.106"))
    with pytest.raises(InputError, match=r"10\.9\.0\.34 is installed"):
        read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings("10.9.0.34"))


def test_the_other_product_is_refused(engine: Path) -> None:
    with pytest.raises(InputError, match="does not run in tensorrt-rtx"):
        read_engine_file(engine, onnx_sha256=ONNX, bindings=bindings("1.7", TENSORRT_RTX))


def test_facts_that_do_not_fit_the_schema_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classes"):
        write_engine_file(tmp_path / "m.engine", b"a plan", {**FACTS, "classes": 0})
    assert list(tmp_path.iterdir()) == []
