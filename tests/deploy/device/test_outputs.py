"""Reports never say more than what happened, and go to the places that were named."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from deploy.device import report as report_module
from deploy.device.command import main
from deploy.validator_archive import validator_bytes

FORMS = ["--sarif", "gate.sarif", "--markdown", "summary.md"]
FORMS += ["--code-quality", "quality.json", "--badge", "badge.json"]


def outcomes() -> set[str]:
    """What each form of the report says."""
    found = {json.loads(Path("report.json").read_text())["outcome"]}
    suite = ElementTree.parse("junit.xml").getroot()[0].attrib
    found.add("pass" if suite["failures"] == suite["errors"] == "0" else "error")
    if Path("gate.sarif").exists():
        kinds = json.loads(Path("gate.sarif").read_text())["runs"][0]["results"]
        found.add("error" if any(one["kind"] == "fail" for one in kinds) else "pass")
        found.add("error" if json.loads(Path("quality.json").read_text()) else "pass")
        found.add(json.loads(Path("badge.json").read_text())["message"].partition(",")[0])
        found.add("pass" if Path("summary.md").read_text().startswith("## PASS") else "error")
    return found


def test_a_started_validation_voids_the_reports_of_an_earlier_one(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(bundle), *FORMS]) == 0
    assert outcomes() == {"pass"}
    seen: list[set[str]] = []

    def stop(*_: Any, **__: Any) -> None:
        seen.append(outcomes())
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.device.command.validate", stop)
    assert main([str(bundle), *FORMS]) == 2
    assert seen == [{"error"}] and outcomes() == {"error"}


@pytest.mark.parametrize(
    "broken", ["report.json", "junit.xml", "gate.sarif", "summary.md", "quality.json", "badge.json"]
)
def test_a_form_that_cannot_be_written_leaves_no_pass_in_the_others(
    broken: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The disk is full from the verdict on, for one of the forms."""
    calls = 0

    def full(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += path.name == broken
        if path.name == broken and calls > 1:
            raise InputError(f"cannot write {path}: No space left on device")
        write_atomic(path, data)

    monkeypatch.setattr(report_module, "write_to", full)
    assert main([str(bundle), *FORMS]) == 2
    assert not Path(broken).exists()  # an older pass is worse than nothing
    Path(broken).write_bytes(b"")
    said = capsys.readouterr()
    assert "No space left on device; the outcome of the gates was: pass" in said.err
    for form in {"report.json", "junit.xml", "gate.sarif", "summary.md", "quality.json"} - {broken}:
        assert "No space left" in Path(form).read_text()
        assert "## PASS" not in Path(form).read_text()


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    monkeypatch.setattr("deploy.device.command.validate", lambda *_, **__: pytest.fail("worked"))
    assert main([str(bundle), "--json", "folder"]) == 2
    assert "cannot write folder" in capsys.readouterr().err
    assert ElementTree.parse("junit.xml").getroot()[0].attrib["errors"] != "0"


def test_an_unwritable_place_voids_the_other_reports_too(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    Path("file").write_bytes(b"")
    Path("loop").symlink_to("loop")
    places = {
        "folder": "it is a folder",
        "file/report": "its parent is a file, not a folder",
        "loop": "a loop of links",
        "n" * 300: "File name too long",
    }
    for place, words in places.items():
        for option in ("--sarif", "--junit", "--badge"):
            assert main([str(bundle)]) == 0
            assert outcomes() == {"pass"}
            capsys.readouterr()
            assert main([str(bundle), option, place]) == 2
            said = capsys.readouterr()
            assert said.err.startswith(f"validate: cannot write {place}: {words}"), said
            assert json.loads(Path("report.json").read_text())["outcome"] == "error"
            suite = ElementTree.parse("junit.xml").getroot()[0].attrib
            assert (suite["errors"] == "0") is (option == "--junit")  # which is not its place then
            assert os.path.lexists(place) is (place in ("folder", "loop"))


def test_a_full_disk_is_not_called_a_bad_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    words = "the bundle cannot be copied to {}: {}; free as much space there as the bundle takes"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        assert main([str(bundle)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert words.format(tempfile.gettempdir(), "File too large") in capsys.readouterr().err
    assert json.loads(Path("report.json").read_text())["outcome"] == "error"
    monkeypatch.setattr(tempfile, "tempdir", str(Path("nowhere").absolute()))
    assert main([str(bundle)]) == 2
    assert words.format(Path("nowhere").absolute(), "No such file")[:60] in capsys.readouterr().err


def test_a_bundle_whose_name_is_no_text(bundle: Path) -> None:
    odd = Path(os.fsdecode(b"caf\xe9\xe2\x80\xae.qbundle"))
    odd.write_bytes(bundle.read_bytes())
    assert main([str(odd)]) == 0
    assert json.loads(Path("report.json").read_text())["bundle"]["file"] == "caf??.qbundle"


# ------------------------------------------------------------------ places


def test_a_device_and_a_pipe_are_written_to(bundle: Path) -> None:
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    assert main([str(bundle), "--json", "pipe", "--junit", "/dev/null"]) == 0
    reader.join()
    assert json.loads(read[0])["outcome"] == "pass"
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)


def test_a_pipe_that_nobody_reads_is_an_error_and_no_wait(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    assert main([str(bundle), "--json", "pipe"]) == 2
    assert "cannot write to pipe" in capsys.readouterr().err
    assert 'errors="0"' not in Path("junit.xml").read_text()


def test_a_link_stays_and_its_target_is_written(bundle: Path) -> None:
    Path("kept").mkdir()
    Path("kept/old.json").write_text("old")
    Path("report.json").symlink_to("kept/old.json")
    Path("junit.xml").symlink_to("kept/new.xml")  # not there yet
    assert main([str(bundle)]) == 0
    assert Path("report.json").is_symlink() and Path("junit.xml").is_symlink()
    assert json.loads(Path("kept/old.json").read_text())["outcome"] == "pass"
    assert Path("kept/new.xml").read_text().startswith("<?xml")


def test_a_dash_is_standard_output(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--json", "-"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["outcome"] == "pass"
    assert "PASS (exit code 0)" in said.err
    assert not Path("-").exists()
    assert main([str(bundle), "--json", "-", "--junit", "-"]) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "model.qbundle"],
        ["--junit", "link.qbundle"],
        ["--json", "./here/../model.qbundle"],
        ["--markdown", "key.pub", "--require-signature", "key.pub"],
        ["--sarif", "report.json"],
        ["--junit", "./report.json"],
        ["--search", "--search-out", "s.npz", "--json", "s.json"],
        ["--markdown", "validate.pyz"],
    ],
)
def test_an_output_names_no_input_and_no_other_output(
    words: list[str],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("here").mkdir()
    Path("link.qbundle").symlink_to("model.qbundle")
    Path("key.pub").write_text("key")
    Path("validate.pyz").write_text("validator")
    monkeypatch.setattr(sys, "argv", ["validate.pyz"])
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main([str(bundle), *words]) == 4
    assert "give another path" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


# ------------------------------------------------------------------ streams and signals


@pytest.fixture
def process(
    bundle: Path, tmp_path: Path
) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Start the archive on the bundle, with a folder of its own for temporary files."""
    Path("validate.pyz").write_bytes(validator_bytes())
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}

    started: list[subprocess.Popen[bytes]] = []

    def start(
        *words: str, itself: bool = False, without_streams: bool = False, **streams: Any
    ) -> tuple[subprocess.Popen[bytes], Path]:
        def prepare() -> None:
            _signals_as_on_a_terminal()
            if without_streams:
                os.close(1)
                os.close(2)

        validator = [] if itself else ["validate.pyz"]
        command = [sys.executable, *validator, str(bundle), *words]
        made = subprocess.Popen(command, env=environment, preexec_fn=prepare, **streams)
        started.append(made)
        return made, scratch

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
            one.wait()


def _signals_as_on_a_terminal() -> None:
    """A test run in the background ignores them, and children inherit that."""
    for one in (signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("name", "itself"),
    [("SIGTERM", False), ("SIGHUP", False), ("SIGINT", False), ("SIGTERM", True)],
)
def test_a_signal_leaves_an_error_and_no_copy(
    name: str, itself: bool, process: Callable[..., tuple[subprocess.Popen[bytes], Path]]
) -> None:
    """``itself``: `python model.qbundle`, which starts the validator that is in it."""
    for form in ("report.json", "junit.xml"):
        Path(form).write_text("an earlier pass")
    words = ["--search", "--queries", "1000000", "--search-images", "200"]
    running, scratch = process(
        *words, itself=itself, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith(b"patch "):  # the search is next, and would take minutes
            break
    assert list(scratch.iterdir()) != []
    running.send_signal(getattr(signal, name))
    _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert b"interrupted" in said and b"Traceback" not in said
    assert outcomes() == {"error"}
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("itself", [False, True])
def test_the_next_validator_removes_what_a_killed_one_left(
    itself: bool, process: Callable[..., tuple[subprocess.Popen[bytes], Path]]
) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    search = ["--search", "--queries", "1000000", "--search-images", "200"]
    running, scratch = process(*search, itself=itself, start_new_session=True, **quiet)
    wanted = 2 if itself else 1  # the bundle's copy of the validator, and the validator's of it

    def folders() -> list[Path]:
        # Python itself writes a file there for a moment, to see whether it can.
        return [one for one in scratch.iterdir() if one.is_dir()]

    deadline = time.monotonic() + 60
    while len(folders()) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(folders()) >= wanted
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert process("--quick", **quiet)[0].wait() == 0
    assert folders() == []


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("how", ["closed", "broken", "full"])
def test_streams_that_nobody_reads_do_not_change_the_verdict(
    how: str, code: int, process: Callable[..., tuple[subprocess.Popen[bytes], Path]]
) -> None:
    words = ["--max-asr", "0.0001"] if code else []
    streams: dict[str, Any] = {}
    if how == "closed":
        streams = {"without_streams": True}
    elif how == "full":
        with Path("/dev/full").open("wb") as out:
            running, _ = process(*words, stdout=out, stderr=out)
    else:
        read, write = os.pipe()
        os.close(read)
        streams = {"stdout": write, "stderr": write}
    if how != "full":
        running, _ = process(*words, **streams)
    assert running.wait(timeout=60) == code
    assert json.loads(Path("report.json").read_text())["exit_code"] == code


def test_the_engines_telemetry_is_off_before_its_import(
    process: Callable[..., tuple[subprocess.Popen[bytes], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    running, scratch = process("--quick", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert running.wait(timeout=60) == 0
    assert list(scratch.iterdir()) == []  # it would leave its identifier's files there
    told = "import os, sys, {0}; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    for name in ("qadtr", "export", "deploy.core", "deploy.device.onnxruntime_engine"):
        done = subprocess.run(
            [sys.executable, "-c", told.format(name)], capture_output=True, text=True, check=True
        )
        assert done.stdout == "1\n", name
