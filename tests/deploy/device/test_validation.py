"""The validator's verdicts, exit codes and reports on small real bundles."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from deploy.bundle import bundle_files, write_bundle
from deploy.bundle_contents import BundleContents, BundlePatch
from deploy.core.errors import InputError
from deploy.core.json_schema import SchemaMismatch, check, load_schema
from deploy.core.npz import npz_bytes
from deploy.core.stored_zip import stored_zip_bytes, write_stored_zip
from deploy.device import command
from deploy.device.bundle_reading import Bundle
from deploy.device.command import main
from deploy.device.measuring import shuffled
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.profile_check import ran_kinds
from deploy.device.suite import read_suite
from deploy.device.verdict import OF_SEARCH
from tests.deploy.device.conftest import patch_set, rehashed, run_elsewhere

SUITE = "images/images.npz"


def report() -> dict[str, Any]:
    found = json.loads(Path("report.json").read_text())
    check(found, load_schema("validation-report-2", "deploy.device"))
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(found, load_schema("validation-report-2", "deploy.device"))
    return dict(found)


def junit() -> dict[str, str]:
    """What each test case came to."""
    root = ElementTree.parse("junit.xml").getroot()
    (suite,) = root
    cases = list(suite)
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert int(suite.attrib["tests"]) == len(cases)
    for tag in ("failure", "error"):
        counted = sum(case.find(tag) is not None for case in cases)
        assert int(suite.attrib[f"{tag}s"]) == counted
    return {case.attrib["name"]: case[0].tag if len(case) else "ok" for case in cases}


def test_0_pass(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("PASS (exit code 0)")
    assert "unauthenticated" in said.out
    assert "max_asr 0.5 (from the manifest)" in said.out
    found = report()
    assert found["outcome"] == "pass"
    assert [one["name"] for one in found["steps"]] == [
        "signature and hashes",
        "model files",
        "host and engine",
        "preprocessing",
        "golden codes",
        "independence of the batch",
        "certificate",
        "clean accuracy and attack success",
        "latency",
        "verdict",
    ]
    assert found["golden"]["tensors"] == 9
    assert found["images_used"] == found["images_total"] == 240
    quiet, loud = found["patches"]
    assert quiet["asr"]["value"] < 0.1 < 0.5 < loud["asr"]["value"]
    assert (quiet["drift"], quiet["flips_n"]) == (0.0, 0)
    assert quiet["asr_common"] == quiet["asr"]
    assert set(junit().values()) == {"ok"}


def test_1_a_gate_failed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--max-asr", "0.0001"]) == 1
    said = capsys.readouterr().out
    assert "max_asr 0.0001 (from the command line; the manifest's is 0.5)" in said
    found = report()
    assert found["thresholds"]["max_asr"] == {"value": 0.0001, "from": "command line"}
    assert junit()["max_asr of quiet"] == "failure"


def test_1_the_drift_is_gated(files: dict[str, bytes], bundle: Path) -> None:
    with np.load(Path_bytes(files["lab/predictions.npz"])) as archive:
        lab = {name: archive[name] for name in archive.files}
    lab["patched-0"] = (lab["patched-0"] + (np.arange(240) < 30)) % 5
    changed = rehashed(files | {"lab/predictions.npz": npz_bytes(lab)})
    write_stored_zip(bundle, changed)
    assert main([str(bundle)]) == 1
    found = report()
    assert found["patches"][0]["flips_n"] == 30
    assert found["patches"][0]["flips"] == list(range(30))
    assert found["patches"][0]["paired_with_lab"]["mcnemar_p"] < 0.01
    assert main([str(bundle), "--max-drift", "0.2"]) == 0
    # All differ in the one direction, so that the drift is their share: 30 of 240.
    assert main([str(bundle), "--max-drift", "0.125"]) == 0


def test_a_quick_run_decides_no_drift_that_its_images_do_not(
    files: dict[str, bytes], bundle: Path
) -> None:
    with np.load(Path_bytes(files["lab/predictions.npz"])) as archive:
        lab = {name: archive[name] for name in archive.files}
    changed = lab["patched-0"] + (np.arange(240) % 24 == 0)  # 10 others than here
    parts = files | {"lab/predictions.npz": npz_bytes(lab | {"patched-0": changed % 5})}
    write_stored_zip(bundle, rehashed(parts))
    assert main([str(bundle), "--quick", "--max-drift", "0.03"]) == 1
    assert report()["images_used"] == 240
    assert junit()["max_drift of quiet"] == "failure"
    assert main([str(bundle), "--quick", "--max-drift", "0.3"]) == 0
    assert report()["images_used"] < 240
    drift = next(one for one in report()["checks"] if one["name"] == "max_drift of quiet")
    assert drift["bounds"][1] < 0.3
    # A run that another gate ended says nothing of the drift.
    with np.load(Path_bytes(files[SUITE])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["labels"] = np.where(np.arange(240) % 2 == 0, arrays["labels"], 4 - arrays["labels"])
    write_stored_zip(bundle, rehashed(parts | {SUITE: npz_bytes(arrays)}))
    assert main([str(bundle), "--quick", "--min-clean", "0.999"]) == 1
    assert report()["images_used"] < 240
    assert junit()["max_drift of quiet"] == "error"


def Path_bytes(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_1_the_labels_of_someone_else(files: dict[str, bytes], bundle: Path) -> None:
    with np.load(Path_bytes(files[SUITE])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["labels"] = np.random.default_rng(0).permutation(arrays["labels"])
    write_stored_zip(bundle, rehashed(files | {SUITE: npz_bytes(arrays)}))
    assert main([str(bundle)]) == 1
    assert junit()["min_clean"] == "failure"


def test_3_too_few_images_to_decide(bundle: Path) -> None:
    assert main([str(bundle), "--max-asr", "0.02"]) == 3
    assert report()["outcome"] == "undecided"
    assert junit()["max_asr of quiet"] == "error"
    assert "images that count would" in report()["reason"]
    assert "--quick" not in report()["reason"]
    assert main([str(bundle), "--max-asr", "0.03", "--quick"]) == 3
    assert report()["images_used"] == 240
    assert "all images were run; run without --quick" in report()["reason"]


def test_3_nothing_is_gated(files: dict[str, bytes], bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["patches"][0]["gated"] = False

    write_stored_zip(bundle, rehashed(files, change))
    assert main([str(bundle)]) == 3


def test_no_image_counts_for_a_patch(files: dict[str, bytes], bundle: Path) -> None:
    with np.load(Path_bytes(files[SUITE])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["labels"] = (arrays["labels"] + 1) % 5
    write_stored_zip(bundle, rehashed(files | {SUITE: npz_bytes(arrays)}))
    # Nothing decides about the patch, but a model that is never right has failed.
    assert main([str(bundle)]) == 1
    assert "none of 240 images counts" in report()["reason"]
    assert main([str(bundle), "--min-clean", "0"]) == 3
    first = report()["checks"][0]
    assert (first["outcome"], first["observed"], first["n"]) == ("undecided", None, 0)
    search = ["--search", "--queries", "5", "--search-size", "2", "--max-search-asr", "0.5"]
    assert main([str(bundle), *search]) == 1
    assert {one["name"]: one["outcome"] for one in report()["checks"]}[OF_SEARCH] == "undecided"
    assert report()["search"] is None


@pytest.mark.parametrize("words", [[], ["--quick"]], ids=["full", "quick"])
def test_a_gate_that_failed_is_1_whatever_counts_for_another(
    words: list[str], contents: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loud = contents.patches[1].patch_set
    # Targeted, and on images of its target's class alone.
    rows = np.flatnonzero(contents.labels == 0)
    moot = replace(
        patch_set("moot", 2, 9, len(rows)), image_indices=contents.indices[rows], target=0
    )
    with OnnxRuntimeEngine(contents.models["onnxruntime"].path) as engine:
        lab = engine.predict(moot.paste_on(contents.images[rows]))
    both = [
        BundlePatch(patch_set=loud, lab=contents.patches[1].lab),
        BundlePatch(patch_set=moot, lab=lab),
    ]
    write_bundle(tmp_path / "model.qbundle", replace(contents, patches=both))
    assert main(["model.qbundle", "--max-asr", "0.1", *words]) == 1
    found = {one["name"]: one["outcome"] for one in report()["checks"]}
    assert (found["max_asr of loud"], found["max_asr of moot"]) == ("fail", "undecided")


def test_wrong_usage_is_in_the_report_that_would_have_had_the_verdict(bundle: Path) -> None:
    assert main([str(bundle)]) == 0
    assert main([str(bundle), "--queries", "5"]) == 4
    assert (report()["exit_code"], report()["outcome"]) == (4, "error")
    assert "add --search" in report()["reason"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--unknown"],
        ["BUNDLE", "--threads", "two"],
        ["BUNDLE", "--threads", "0"],
        ["BUNDLE", "--max-asr", "nan"],
        ["BUNDLE", "--max-asr", "30"],
        ["BUNDLE", "--min-clean", "-1"],
        ["BUNDLE", "--engine", "tensorrt"],
        ["BUNDLE", "--manifest-sha256", "12345678"],
    ],
)
def test_4_usage(words: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([str(bundle) if word == "BUNDLE" else word for word in words])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_4_a_report_inside_the_bundle(
    files: dict[str, bytes], save_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(files)
    monkeypatch.chdir(folder)
    assert main(["."]) == 4
    assert main([".", "--json", "../report.json", "--junit", "../junit.xml"]) == 0


def test_2_whatever_is_unforeseen(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("report.json").write_text("the old one")

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory\nleft")

    monkeypatch.setattr("deploy.device.steps.measure", fails)
    assert main([str(bundle)]) == 2
    assert capsys.readouterr().err == (
        "validate: ERROR (exit code 2): unexpected MemoryError: no memory left\n"
    )
    assert report()["steps"][-1]["ok"] is False  # an old pass does not stay behind
    monkeypatch.setattr(command, "validate", fails)
    assert main([str(bundle)]) == 2


def test_2_a_place_that_is_not_writable(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main([str(bundle), "--json", "file/report.json"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_2_interrupted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.device.steps.measure", stop)
    assert main([str(bundle)]) == 2
    assert (report()["outcome"], report()["reason"]) == ("error", "the validation did not finish")
    assert set(junit().values()) == {"error"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["models"]["onnxruntime"]["certificate"]["kinds"].update(pool=7), "another"),
        (lambda m: m["models"]["onnxruntime"].update(certificate=None), "no certificate"),
        (lambda m: m["preprocessing"].update(zero_point=0), "zero point"),
        (lambda m: m["preprocessing"].update(height_px=9), "(3, 9, 8)"),
        (lambda m: m["patches"][0].update(pasted_sha256="0" * 64), "pasting"),
        (lambda m: m["golden"].update(tensors=m["golden"]["tensors"][::-1]), "the tensor"),
        (lambda m: m.update(models={"abacus": m["models"]["onnxruntime"]}), "has models for"),
    ],
)
def test_2_what_the_device_does_not_reproduce(
    change: Callable[[dict[str, Any]], None],
    said: str,
    files: dict[str, bytes],
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_stored_zip(bundle, rehashed(files, change))
    assert main([str(bundle)]) == 2
    assert said in capsys.readouterr().err


def test_a_float_convolution_in_the_profile_is_refused(tmp_path: Path) -> None:
    def event(operator: str, *types: str) -> dict[str, Any]:
        arguments = {
            "op_name": operator,
            "provider": "CPUExecutionProvider",
            "input_type_shape": [{one: [1]} for one in types],
        }
        name = f"{operator}_{'_'.join(types)}_kernel_time"
        return {"cat": "Node", "name": name, "dur": 1, "args": arguments}

    integer = [event("QLinearConv", "uint8", "float"), event("QGemm", "uint8", "float")]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(integer))
    assert ran_kinds(path).require_integers()["convolution"] == 1
    path.write_text(json.dumps([*integer, event("Add", "int64", "int64")]))  # of shapes
    assert ran_kinds(path).require_integers()["addition"] == 0
    for operator in ("Conv", "FusedConv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"):
        path.write_text(json.dumps([*integer, event(operator, "float", "float")]))
        with pytest.raises(InputError, match="float"):
            ran_kinds(path).require_integers()
    parts = [one for _ in range(2) for one in ("uint8", "float", "uint8")]
    concat = event("QLinearConcat", "float", "uint8", *parts)
    path.write_text(json.dumps([*integer, concat]))
    assert ran_kinds(path).all_integer
    path.write_text(json.dumps([*integer, event("Concat", "float", "float")]))
    assert not ran_kinds(path).all_integer
    path.write_text(json.dumps([*integer, event("Add", "int32", "float")]))
    with pytest.raises(InputError, match="float"):
        ran_kinds(path).require_integers()


def test_quick_takes_as_many_images_as_the_thresholds_need(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle), "--quick"]) == 0
    assert "64 of 240 used" in capsys.readouterr().out
    found = report()
    assert (found["quick"], found["images_used"]) == (True, 64)
    assert main([str(bundle), "--quick", "--max-asr", "0.05", "--min-clean", "0.9"]) in (0, 3)
    assert report()["images_used"] > 64


def test_a_folder_is_validated_like_the_file(
    files: dict[str, bytes], save_folder: Callable[..., Path], bundle: Path
) -> None:
    assert main([str(save_folder(files))]) == 0
    assert report()["exit_code"] == 0


def test_bundles_are_deterministic_and_ordinary_zips(
    contents: BundleContents, files: dict[str, bytes], bundle: Path
) -> None:
    assert bundle_files(contents) == files
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert stored_zip_bytes(dict(reversed(files.items()))) == bundle.read_bytes()


def test_writing_reads_back(contents: BundleContents, tmp_path: Path) -> None:
    digest = write_bundle(tmp_path / "b.qbundle", contents)
    assert write_bundle(tmp_path / "folder", contents, as_folder=True) == digest
    with Bundle(tmp_path / "b.qbundle") as opened:
        assert opened.manifest.bit_width == 4
        place = opened.folder
        assert place.is_dir()
    assert not place.exists()
    assert write_bundle(tmp_path / "folder", contents, as_folder=True) == digest  # there already
    other = replace(contents, random_floor_seed=contents.random_floor_seed + 1)
    with pytest.raises(InputError, match="exists"):
        write_bundle(tmp_path / "folder", other, as_folder=True)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="exists"):
        write_bundle(tmp_path / "half", contents, as_folder=True)


def test_the_clock_changes_the_sidecar_alone(contents: BundleContents, tmp_path: Path) -> None:
    written = []
    for second in (1, 2):
        run = {"date": f"2026-11-28T00:00:0{second}+00:00", "commit": "c", "seed": 1}
        patches = [
            replace(
                one,
                patch_set=replace(
                    one.patch_set, origin=replace(one.patch_set.origin, run={**run, "seed": 2})
                ),
            )
            for one in contents.patches
        ]
        out = tmp_path / "b.qbundle"
        digest = write_bundle(out, replace(contents, provenance=run, patches=patches))
        written.append(out.read_bytes())
        about = json.loads((tmp_path / "b.qbundle.json").read_text())
        assert about == {"manifest_sha256": digest, "provenance": run}
    assert written[0] == written[1]
    with Bundle(out) as bundle:
        assert bundle.manifest.raw["provenance"] == {"commit": "c", "seed": 1}
        made = json.loads(bundle.file("patches/patch-000.json").read_bytes())
        assert made["provenance"]["run"] == {"commit": "c", "seed": 2}


def test_a_folder_that_a_killed_process_left_goes_and_blocks_nothing(
    contents: BundleContents, tmp_path: Path
) -> None:
    left = tmp_path / ".folder.abcdefgh"
    left.mkdir()
    (left / "manifest.json").write_bytes(b"half")
    write_bundle(tmp_path / "folder", contents, as_folder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "folder",
        "folder.cdx.json",
        "folder.json",
    ]


def test_the_manifest_fits_its_schema_by_another_reader(files: dict[str, bytes]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = load_schema("bundle-manifest-1", "deploy.device")
    manifest = json.loads(files["manifest.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest, schema)
    mistakes: tuple[dict[str, Any], ...] = (
        {"format_version": 2},
        {"bit_width": "4"},
        {"more": 1},
        {"patches": []},
    )
    for wrong in mistakes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(manifest | wrong, schema)
        with pytest.raises(SchemaMismatch):
            check(manifest | wrong, schema)


# ------------------------------------------------------------------ as a process, elsewhere


def test_the_archive_alone(bundle: Path, elsewhere: tuple[Path, dict[str, str]]) -> None:
    done = run_elsewhere(["validate.pyz", str(bundle)], elsewhere)
    assert (done.returncode, done.stderr) == (0, "images: 64 of 240\n")
    assert (elsewhere[0] / "report.json").is_file()
    assert (elsewhere[0] / "junit.xml").is_file()
    assert (
        run_elsewhere(["validate.pyz", str(bundle), "--max-asr", "0.0001"], elsewhere).returncode
        == 1
    )
    usage = run_elsewhere(["validate.pyz", "--nonsense"], elsewhere)
    assert (usage.returncode, usage.stdout) == (4, "")


def test_a_bundle_runs_its_own_validator(
    bundle: Path, elsewhere: tuple[Path, dict[str, str]]
) -> None:
    done = run_elsewhere([str(bundle), "--quick"], elsewhere)
    assert done.returncode == 0, done.stderr
    assert run_elsewhere([str(bundle), "--max-asr", "7"], elsewhere).returncode == 4


@pytest.mark.parametrize("missing", ["numpy", "onnxruntime"])
def test_2_a_missing_package_is_named(
    missing: str, bundle: Path, elsewhere: tuple[Path, dict[str, str]]
) -> None:
    blocker = elsewhere[0] / "blocker" / "sitecustomize.py"
    blocker.write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    done = run_elsewhere(["validate.pyz", str(bundle)], elsewhere)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert missing in done.stderr


WRITES = """
import sys
sys.path.insert(0, "validate.pyz")
from pathlib import Path
from qadtr_device.device.report import ReportPlaces, conclude, empty_report, write_report
number = 0
while True:
    report = empty_report("x" * 100_000)
    conclude(report, 0, str(number))
    write_report(report, ReportPlaces(json=Path("report.json"), junit=Path("junit.xml")))
    number += 1
"""


def test_killed_at_any_moment_a_report_is_the_old_or_the_whole_new_one(
    elsewhere: tuple[Path, dict[str, str]],
) -> None:
    folder, environment = elsewhere
    delays = random.Random(8)
    schema = load_schema("validation-report-2", "deploy.device")
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITES], cwd=folder, env=environment)
        deadline = time.monotonic() + 60
        before = _changed(folder)
        while _changed(folder) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delays.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        found = json.loads((folder / "report.json").read_text())
        check(found, schema)
        assert len(found["bundle"]["file"]) == 100_000
        ElementTree.parse(folder / "junit.xml")


def _changed(folder: Path) -> int:
    path = folder / "report.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_validation_killed_on_its_way_leaves_the_old_report(
    bundle: Path, elsewhere: tuple[Path, dict[str, str]]
) -> None:
    folder, environment = elsewhere
    words = [sys.executable, "validate.pyz", str(bundle)]
    for delay in (0.1, 0.4, 0.7, 1.0):
        (folder / "report.json").write_text('"old"')
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.kill()
        process.wait()
        found = json.loads((folder / "report.json").read_text())
        if found != "old":
            check(found, load_schema("validation-report-2", "deploy.device"))


def test_the_verdict_says_what_it_rests_on(
    files: dict[str, bytes], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["thresholds"]["min_clean"] = None  # as bundles of before have it

    write_stored_zip(bundle, rehashed(files, change))
    words = ["--search", "--queries", "20", "--search-images", "30", "--max-search-asr", "1"]
    assert main([str(bundle), *words]) in (0, 3)
    said = capsys.readouterr().out
    assert "threshold  min_clean 0.9342 (from the lab; the manifest's is none)" in said
    assert "240 of 240 used, 240 of 240 distinct" in said
    assert "changes 1 px (median), and too few on 1 images" in said
    assert "gate       classes predicted: pass: 5 classes predicted, 5 labelled" in said
    assert main([str(bundle)]) == 0
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert "all 4 gates passed; 5 classes predicted" in verdict
    assert "noise of its size wins more often than quiet: 2.9%" in verdict
    found = report()
    assert found["thresholds"]["min_clean"] == {"value": 0.9342, "from": "lab"}
    assert found["clean"]["classes"]["predicted"] == 5
    assert found["patches"][0]["changed_px"] == {
        "median": 1.0,
        "least": 0,
        "unchanged_images": 1,
    }


def test_the_order_of_a_quick_run_is_another_for_another_bundle(
    files: dict[str, bytes], bundle: Path
) -> None:
    orders = []
    for seed in (5, 6):
        changes = {"seed": seed}
        write_stored_zip(bundle, rehashed(files, lambda m: m["provenance"].update(changes)))  # noqa: B023
        with Bundle(bundle) as opened:
            orders.append(shuffled(read_suite(opened)).tolist())
        assert sorted(orders[-1]) == list(range(240))
    assert orders[0] != orders[1]


def test_a_folder_that_changes_while_it_is_validated_changes_nothing(
    files: dict[str, bytes], save_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(files)
    reading = Bundle._check_envelope

    def then_exchanged(self: Bundle, *given: Any) -> None:
        """After the manifest was read, before the files are."""
        reading(self, *given)
        (folder / "patches/patch-000.npz").write_bytes(files["patches/patch-001.npz"])

    with Bundle(folder) as opened:
        for path in [one for one in folder.rglob("*") if one.is_file()]:
            path.write_bytes(b"gone")
        assert opened.file(SUITE).read_bytes() == files[SUITE]
        assert read_suite(opened).images.shape == (240, 3, 8, 8)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(Bundle, "_check_envelope", then_exchanged)
    with pytest.raises(InputError, match=r"changed or replaced|grew"):
        Bundle(folder)
