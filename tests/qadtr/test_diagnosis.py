"""`qadtr doctor`: each finding from facts given by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.core.host import Host
from deploy.core.installing import install_command
from qadtr.diagnosis import (
    diagnose,
    engine_findings,
    gpu_finding,
    onnxruntime_finding,
    package_findings,
    processor_finding,
    provider_finding,
    python_finding,
    session_findings,
)
from tests.deploy.tensorrt.host_driver import HostDriver


@pytest.mark.parametrize(
    ("versions", "level", "words"),
    [
        ({}, "note", install_command("cpu")),
        ({"onnxruntime": "1.31.1"}, "ok", "onnxruntime 1.31.1, alone"),
        ({"onnxruntime-gpu": "1.31.1"}, "ok", "onnxruntime-gpu 1.31.1, alone"),
        (
            {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.0"},
            "problem",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime==1.31.1",
        ),
        ({"onnxruntime-gpu": "1.31.1", "qonnx": "1.0.0"}, "problem", "two environments"),
    ],
)
def test_onnxruntime(versions: dict[str, str], level: str, words: str) -> None:
    finding = onnxruntime_finding(versions)
    assert finding.level == level
    assert words in finding.text


def test_an_onnxruntime_that_is_listed_but_does_not_import_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    finding = provider_finding({"onnxruntime": "1.31.1"})
    assert finding.level == "problem"
    assert "--force-reinstall" in finding.text


def test_packages_are_told_by_extra_with_the_way_to_install_the_missing() -> None:
    findings = {finding.subject: finding for finding in package_findings({"numpy": "2.4.6"})}
    assert findings["extra base"].level == "ok"
    assert findings["extra base"].text == "numpy 2.4.6"
    assert findings["extra train"].level == "note"
    assert install_command("train") in findings["extra train"].text


@pytest.mark.parametrize(("version", "level"), [((3, 10), "problem"), ((3, 11), "ok")])
def test_python(version: tuple[int, int], level: str) -> None:
    assert python_finding(version).level == level


@pytest.mark.parametrize(
    ("machine", "sets", "level", "said"),
    [
        ("x86_64", ("avx2",), "note", "no VNNI"),
        ("x86_64", ("avx2", "avx512_vnni"), "ok", ""),
        ("x86_64", ("avx2", "avx512_vnni", "amx_int8"), "ok", "--tune amx"),
        ("aarch64", ("asimd", "asimddp"), "ok", ""),
        ("aarch64", ("asimd",), "note", "no dot product"),
        ("x86_64", None, "note", "no VNNI"),
    ],
)
def test_processor(machine: str, sets: tuple[str, ...] | None, level: str, said: str) -> None:
    host = Host(machine=machine, system="Linux", cpu_model=None, cores=2, instruction_sets=sets)
    finding = processor_finding(host)
    assert finding.level == level
    assert said in finding.text
    option = {f.subject: f.text for f in session_findings(host)}["option x64quantprecision"]
    assert option.startswith("on" if said == "no VNNI" else "off")


def test_the_options_are_those_that_the_engine_takes(tmp_path: Path) -> None:
    from deploy.core.host import host_facts
    from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
    from tests.export.integer_graphs import residual_graph

    path = residual_graph(np.random.default_rng(0), bits=4).save(tmp_path / "model.onnx")
    options = {f.subject: f.text for f in session_findings(host_facts())}
    with OnnxRuntimeEngine(path) as engine:
        on = options["option x64quantprecision"].startswith("on")
        assert engine.x64_quant_precision == on


def test_engines() -> None:
    installed = {"onnxruntime": "1.31.1", "openvino": "0.0.0"}
    findings = {f.subject: f for f in engine_findings(installed)}
    assert findings["engine onnxruntime"].level == "ok"
    assert findings["engine onnxruntime"].text.startswith("onnxruntime 1.31.1 loads")
    assert findings["engine tensorrt"].level == "note"
    assert "not installed: tensorrt" in findings["engine tensorrt"].text


def test_a_gpu_is_looked_for_as_the_engines_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.tensorrt.cuda.LIBRARY", "libno-such-driver.so.1")
    assert "no CUDA driver on this machine" in gpu_finding().text

    driver = HostDriver()
    monkeypatch.setattr("deploy.tensorrt.cuda._driver", lambda: driver)
    finding = gpu_finding()
    assert finding.level == "note" and "compute capability 8.6" in finding.text
    assert "never run on hardware" in finding.text and driver.kinds_alive() == []


def test_an_engine_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"openvino": ("no_such_module_at_all", "nothing")}
    monkeypatch.setattr("qadtr.diagnosis.ENGINE_MODULES", broken)
    (finding,) = engine_findings({"openvino": "1.0"})
    assert finding.level == "problem"
    assert "does not load: No module named" in finding.text


def test_the_environment_of_the_tests_has_no_problem() -> None:
    assert [finding for finding in diagnose() if finding.level == "problem"] == []
