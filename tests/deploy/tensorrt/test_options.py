"""Options of the builder, and what is said where a package is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import EngineUnavailable, UsageError
from deploy.tensorrt.__main__ import main
from deploy.tensorrt.bindings import FLAVOURS, TENSORRT, TENSORRT_RTX, Flavour, Log, load
from deploy.tensorrt.options import BuildOptions
from tests.deploy.tensorrt.qdq_files import changed, exported, uint8_zero_point


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_sizes": (0, 1, 2)}, "batch sizes"),
        ({"batch_sizes": (1, 8, 4)}, "batch sizes"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"hardware": "any"}, "known: this-gpu, same-compute-capability, ampere-plus"),
        ({"compute_capabilities": ()}, "one or more different compute capabilities"),
        ({"compute_capabilities": ("8.6", "8.6")}, "one or more different compute capabilities"),
        ({"compute_capabilities": ("current", "8.6")}, "cannot be combined with others"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        BuildOptions(**options)


@pytest.mark.parametrize(
    ("flavour", "options", "name"),
    [
        (TENSORRT, {"compute_capabilities": ("8.6",)}, "compute_capabilities"),
        (TENSORRT_RTX, {"hardware": "ampere-plus"}, "hardware"),
        (TENSORRT_RTX, {"version_compatible": True}, "version_compatible"),
        (TENSORRT_RTX, {"timing_cache": Path("t.cache")}, "timing_cache"),
    ],
)
def test_an_option_of_the_other_product_is_refused_with_the_reason(
    flavour: Flavour, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(UsageError, match=f"{flavour.name} has no option {name}: TensorRT"):
        BuildOptions(**options).check_for(flavour)


def test_records_hold_what_the_product_has_and_no_path() -> None:
    rtx = BuildOptions(compute_capabilities=("8.6",)).as_record(TENSORRT_RTX)
    assert rtx["compute_capabilities"] == ["8.6"] and "hardware" not in rtx
    record = BuildOptions(timing_cache=Path("somewhere/t")).as_record(TENSORRT)
    assert record["hardware"] == "this-gpu" and "somewhere" not in str(record)


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
def test_a_missing_package_is_named_with_its_remedy(
    flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    load.cache_clear()
    with pytest.raises(
        EngineUnavailable, match=rf"needs the package {flavour.package}.*pip install"
    ):
        load(flavour)
    load.cache_clear()


def test_a_version_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "8.6.1"

    monkeypatch.setitem(sys.modules, "tensorrt", Old())
    load.cache_clear()
    with pytest.raises(EngineUnavailable, match=r"8\.6\.1 is installed, .* versions 10 and 11"):
        load(TENSORRT)
    load.cache_clear()


def test_the_log_keeps_errors_and_layers() -> None:
    log = Log()
    for severity, text in ((4, "noise"), (1, "it\nbroke"), (4, "Layers:\nName: a"), (0, "badly")):
        log.take(severity, text)
    assert log.last_errors() == "it broke; badly" and log.layers == "Layers:\nName: a"
    log.clear()
    assert log.last_errors() == "its log gives no reason" and log.layers is None


def test_the_command_gives_one_line_and_the_right_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = exported(tmp_path)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(changed(good, uint8_zero_point))
    for words, code, says in (
        ([str(tmp_path / "none.onnx")], 2, "does not exist"),
        ([str(broken)], 2, "is uint8"),
        ([str(good), "--hardware", "ampere-plus"], 4, "has no option hardware"),
        ([str(good), "--batch-sizes", "4", "2", "1"], 4, "batch sizes"),
    ):
        assert main(words) == code
        told = capsys.readouterr()
        assert says in told.err and told.err.count("\n") == 1 and not told.out
    with pytest.raises(SystemExit) as stopped:
        main([str(good), "--engine", "abacus"])
    assert stopped.value.code == 4
    assert [path.name for path in tmp_path.iterdir() if "engine" in path.name] == []
