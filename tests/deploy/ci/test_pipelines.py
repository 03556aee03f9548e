"""The Action's and the GitLab template's steps in bash, on real bundles: codes, reports, text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.core.files import sha256_of
from deploy.core.json_schema import load_schema
from deploy.core.stored_zip import write_stored_zip
from deploy.device.bundle_reading import Bundle, checksums_text
from deploy.device.command import main as validate
from deploy.device.signature import sign as sign_bytes
from tests.deploy.ci.pipelines import (
    ACTION,
    GITHUB_EXPRESSION,
    GITLAB,
    GITLAB_INPUT,
    ROOT,
    Finished,
    InputRefused,
    bash,
    clean_environment,
    gitlab_job,
    run_action,
    run_gitlab,
)
from tests.deploy.device.conftest import rehashed
from tests.deploy.device.test_report_forms import SARIF, check_junit

jsonschema: Any = pytest.importorskip("jsonschema")
REPORTS = "qadtr-reports"
HERE: dict[str, Any] = {"python": sys.executable, "install": "false"}
"""The packages that this environment has; one test below installs them."""

PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)
Pipeline = Callable[..., Finished]


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    write_stored_zip(tmp_path / "model.qbundle", files)
    return tmp_path


@pytest.fixture(params=["GitHub", "GitLab"])
def pipeline(request: pytest.FixtureRequest, validator: Path) -> Pipeline:
    if request.param == "GitHub":
        return lambda folder, **given: run_action(folder, **(HERE | given))
    return lambda folder, **given: run_gitlab(
        folder, **(HERE | {"validator": str(validator)} | given)
    )


def reports(folder: Path) -> dict[str, Any]:
    """The report, once all its forms fit their schemas."""
    place = folder / REPORTS
    report: dict[str, Any] = json.loads((place / "report.json").read_text())
    jsonschema.validate(report, load_schema("validation-report-2", "deploy.device"))
    jsonschema.validate(json.loads((place / "gate.sarif").read_text()), SARIF)
    check_junit((place / "junit.xml").read_bytes())
    badge = json.loads((place / "badge.json").read_text())
    assert badge["message"].startswith({2: "error"}.get(report["exit_code"], report["outcome"]))
    if (place / "code-quality.json").exists():  # GitLab's
        issues = json.loads((place / "code-quality.json").read_text())
        assert bool(issues) is bool(report["exit_code"])
    title = {0: "PASS", 1: "FAIL", 2: "ERROR", 3: "UNDECIDED"}[report["exit_code"]]
    assert (place / "summary.md").read_text().startswith(f"## {title}: ")
    return report


def make_keys(folder: Path) -> None:
    """docs/bundle.md's two commands."""
    for words in (
        "genpkey -algorithm ed25519 -out key.pem",
        "pkey -in key.pem -pubout -out key.pub",
    ):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


def sign(bundle: Path, key: Path, out: Path) -> None:
    """Write a bundle's signed twin."""
    with zipfile.ZipFile(bundle) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    signature = sign_bytes(parts["manifest.json"], key)
    checksums = checksums_text(parts["manifest.json"], signature)
    write_stored_zip(out, parts | {"manifest.sig": signature, "manifest.sha256": checksums})


@pytest.mark.parametrize(
    ("code", "outcome", "given"),
    [
        (0, "pass", {}),
        (0, "pass", {"quick": "true", "threads": "2", "min_clean": "0.6", "max_drift": "0.2"}),
        (1, "fail", {"max_asr": "0.0001"}),
        (3, "undecided", {"max_asr": "0.02"}),
    ],
)
def test_a_gate(
    code: int, outcome: str, given: dict[str, str], folder: Path, pipeline: Pipeline
) -> None:
    done = pipeline(folder, bundle="model.qbundle", **given)
    assert done.code == code, done.log
    report = reports(folder)
    assert report["exit_code"] == code
    assert report["quick"] is (given.get("quick") == "true")
    if "max_asr" in given:
        assert report["thresholds"]["max_asr"]["value"] == float(given["max_asr"])
    if done.outputs:  # GitLab has none
        assert done.outputs == {"exit-code": str(code), "outcome": outcome, "reports": REPORTS}
        assert done.summary == (folder / REPORTS / "summary.md").read_text()
        assert ("::error title=" in done.log) is bool(code)


def test_a_damaged_bundle_is_2(folder: Path, pipeline: Pipeline) -> None:
    bundle = folder / "model.qbundle"
    bundle.write_bytes(bundle.read_bytes()[:-9])
    done = pipeline(folder, bundle="model.qbundle")
    assert done.code == 2, done.log
    assert reports(folder)["outcome"] == "error"


@pytest.mark.parametrize(
    "given", [{"max_asr": "30%"}, {"threads": ""}, {"min_clean": "0.5 --max-asr=1"}]
)
def test_wrong_usage_is_4_and_leaves_no_old_report(
    given: dict[str, str], folder: Path, pipeline: Pipeline
) -> None:
    (folder / REPORTS).mkdir()
    (folder / REPORTS / "report.json").write_text("an earlier pass")
    assert pipeline(folder, bundle="model.qbundle", **given).code == 4
    assert not (folder / REPORTS / "report.json").exists()


@pytest.mark.parametrize(
    ("given", "code"),
    [({"quick": "yes"}, 4), ({"install": "yes"}, 4), ({"python": "no-such-python"}, 2)],
)
def test_inputs_that_the_action_does_not_take(
    given: dict[str, str], code: int, folder: Path
) -> None:
    done = run_action(folder, bundle="model.qbundle", **(HERE | given))
    assert done.code == code, done.log


def test_a_missing_validator_is_2(folder: Path, pipeline: Pipeline) -> None:
    assert pipeline(folder, bundle="model.qbundle", validator="none.pyz").code == 2


@pytest.mark.parametrize("signed", [True, False])
def test_a_required_signature(signed: bool, folder: Path, pipeline: Pipeline) -> None:
    make_keys(folder)
    if signed:
        sign(folder / "model.qbundle", folder / "key.pem", folder / "model.qbundle")
    done = pipeline(folder, bundle="model.qbundle", public_key="key.pub")
    assert done.code == (0 if signed else 2), done.log


@pytest.mark.parametrize("rolled_back", [False, True])
def test_an_older_bundle_of_the_same_key_is_not_the_pinned_one(
    rolled_back: bool, folder: Path, pipeline: Pipeline
) -> None:
    make_keys(folder)
    sign(folder / "model.qbundle", folder / "key.pem", folder / "model.qbundle")
    with Bundle(folder / "model.qbundle") as bundle:
        pinned = "0" * 64 if rolled_back else bundle.manifest_sha256.upper()
    given = {"public_key": "key.pub", "manifest_sha256": pinned}
    done = pipeline(folder, bundle="model.qbundle", **given)
    assert done.code == (2 if rolled_back else 0), done.log
    assert ("not the pinned bundle" in done.log) == rolled_back


def test_the_bundles_own_validator_is_never_run(
    folder: Path, files: dict[str, bytes], pipeline: Pipeline
) -> None:
    liar = b"print('PASS (exit code 0)')"
    swapped = rehashed(files | {"__main__.py": liar, "validate.pyz": liar})
    write_stored_zip(folder / "model.qbundle", swapped)
    done = pipeline(folder, bundle="model.qbundle", max_asr="0.0001")
    assert done.code != 0, done.log


def test_a_commit_that_raises_the_attack_success_rate_fails(
    before_and_after: tuple[Path, Path], tmp_path: Path, pipeline: Pipeline
) -> None:
    before, after = before_and_after
    made = ["--json", str(tmp_path / "baseline.json"), "--junit", str(tmp_path / "b.xml")]
    assert validate([str(before), *made]) == 0
    same = pipeline(tmp_path, bundle=str(before), baseline="baseline.json")
    assert same.code == 0, same.log
    # Under its threshold, so that only the comparison can find it.
    assert pipeline(tmp_path, bundle=str(after)).code == 0
    worse = pipeline(tmp_path, bundle=str(after), baseline="baseline.json")
    assert worse.code == 1, worse.log
    found = json.loads((tmp_path / REPORTS / "comparison.json").read_text())
    assert [one.partition(" of ")[0] for one in found["worse"]] == ["ASR"]
    report = reports(tmp_path)
    assert report["exit_code"] == 0
    # Also where the images do not decide about the threshold.
    (at,) = (one["observed"] for one in report["checks"] if one["name"].startswith("max_asr"))
    near = pipeline(tmp_path, bundle=str(after), baseline="baseline.json", max_asr=f"{at:.4f}")
    assert reports(tmp_path)["exit_code"] == 3
    assert near.code == 1, near.log
    if worse.outputs:
        assert worse.outputs["outcome"] == "fail"
        assert "    significantly worse" in worse.summary
    # And the gate alone, where the threshold is between the two.
    rates = [found["patches"][0][f"asr_{which}"]["value"] for which in ("old", "new")]
    limit = f"{sum(rates) / 2:.3f}"
    assert pipeline(tmp_path, bundle=str(before), max_asr=limit).code == 0
    assert pipeline(tmp_path, bundle=str(after), max_asr=limit).code == 1


def test_a_baseline_of_other_images_is_2(
    before_and_after: tuple[Path, Path], folder: Path, pipeline: Pipeline
) -> None:
    made = ["--json", str(folder / "baseline.json"), "--junit", str(folder / "b.xml")]
    assert validate([str(folder / "model.qbundle"), *made]) == 0
    text = (folder / "baseline.json").read_text().replace("0" * 64, "1" * 64)
    (folder / "baseline.json").write_text(text)
    assert pipeline(folder, bundle="model.qbundle", baseline="baseline.json").code == 2


# ------------------------------------------------------------------ the page's examples


def yaml_blocks() -> list[Any]:
    page = (ROOT / "docs" / "ci.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]


def test_the_examples_of_the_page(
    before_and_after: tuple[Path, Path], validator: Path, tmp_path: Path
) -> None:
    github, gitlab = yaml_blocks()
    step = github["jobs"]["gate"]["steps"][-1]
    included = gitlab["include"][0]
    assert (ROOT / included["file"].lstrip("/")) == GITLAB
    gate = tmp_path / "gate"
    gate.mkdir()
    shutil.copy(validator, gate / "validate.pyz")
    make_keys(tmp_path)
    shutil.move(tmp_path / "key.pub", gate / "key.pub")
    made = ["--json", str(gate / "baseline.json"), "--junit", str(tmp_path / "b.xml")]
    assert validate([str(before_and_after[0]), *made]) == 0
    for bundle, code in zip(before_and_after, (0, 1), strict=True):
        sign(bundle, tmp_path / "key.pem", tmp_path / "model.qbundle")
        with_ = {name.replace("-", "_"): value for name, value in step["with"].items()}
        assert run_action(tmp_path, **(HERE | with_)).code == code
        inputs = {name.replace("-", "_"): value for name, value in included["inputs"].items()}
        assert run_gitlab(tmp_path, **(HERE | inputs)).code == code


def test_the_commands_of_the_page(validator: Path, folder: Path) -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    install, gate, compare = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).splitlines()
    for name in ("numpy", "onnxruntime"):
        assert f"{name}=={PINS[name]}" in install.split()
    shutil.copy(validator, folder / "validate.pyz")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean_environment(folder) | {"PATH": path}
    code, said = bash(gate, folder, environment)
    assert (code, (folder / "gate.sarif").is_file()) == (0, True), said
    (folder / "old").mkdir()
    shutil.copy(folder / "report.json", folder / "old" / "report.json")
    code, said = bash(compare, folder, environment)
    assert code == 0, said


WORKFLOW = ROOT / "templates" / "github-pull-request.yml"


def test_the_workflow_to_copy_fits_the_schema_and_the_action() -> None:
    schema_check("github-workflows", WORKFLOW)
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    (gate,) = [step for step in jobs["gate"]["steps"] if "qadtr" in step.get("uses", "")]
    action = yaml.safe_load(ACTION.read_text())
    assert set(gate["with"]) <= set(action["inputs"])
    for job in jobs.values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
    (kept,) = [step for step in action["runs"]["steps"] if "cache" in step.get("uses", "")]
    (install,) = [step for step in action["runs"]["steps"] if step.get("id") == "install"]
    assert install["env"]["PIP_CACHE_DIR"] == kept["with"]["path"]
    assert action["inputs"]["artifact"]["default"] == jobs["badge"]["steps"][1]["with"]["name"]


def test_the_badge_is_pushed_to_a_branch_of_its_own(folder: Path) -> None:
    """The workflow's own step, against a repository in a folder."""
    assert run_action(folder, bundle="model.qbundle", **HERE).code == 0
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    origin = folder / "origin.git"
    subprocess.run([*git, "init", "--quiet", "--bare", str(origin)], check=True)
    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([*git, "remote", "add", "origin", str(origin)], cwd=folder, check=True)
    step = yaml.safe_load(WORKFLOW.read_text())["jobs"]["badge"]["steps"][-1]
    for _ in range(2):  # and again, over the first
        code, said = bash(step["run"], folder, clean_environment(folder) | step["env"])
        assert code == 0, said
    shown = subprocess.run(
        [*git, "show", "qadtr-badge:badge.json"], cwd=origin, capture_output=True, check=True
    )
    badge = json.loads(shown.stdout)
    assert badge["schemaVersion"] == 1
    assert re.fullmatch(r"pass, ASR \d+\.\d% at \d bits", badge["message"])


# ------------------------------------------------------------------ nothing is run but the gate


def test_no_input_is_expanded_into_a_script() -> None:
    """In GitHub none; in GitLab between single quotes, where no single quote is admitted."""
    action = yaml.safe_load(ACTION.read_text())
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    spec, template = yaml.safe_load_all(GITLAB.read_text())
    (job,) = template.values()
    assert "variables" not in job  # whoever may push variables overrides them
    script = re.sub(r"#.*", "", "\n".join(job["script"]))
    for name in GITLAB_INPUT.findall(script):
        about = spec["spec"]["inputs"][name]
        assert about.get("type") in ("boolean", "number") or about["regex"] == r"\A[^']*\z", name
    assert "$[[" not in re.sub(r"'[^']*'", "", script)


NAMES_OF_THE_TEMPLATE = re.findall(r"^ +(\w+)=", GITLAB.read_text(), re.MULTILINE)


def test_a_pushed_variable_changes_nothing_of_the_gate(folder: Path, validator: Path) -> None:
    (folder / "liar.py").write_text("raise SystemExit(0)\n")
    values = {"max_asr": "1", "min_clean": "0", "python": "true", "validator": "liar.py"}
    pushed = {name: values.get(name, "") for name in (*values, *NAMES_OF_THE_TEMPLATE)}
    pushed |= {f"QADTR_{name.upper()}": value for name, value in pushed.items()}
    pushed["PYTHONPATH"] = str(folder)
    given: dict[str, Any] = {**HERE, "validator": str(validator), "max_asr": "0.0001"}
    done = run_gitlab(folder, pushed=pushed, bundle="model.qbundle", **given)
    assert done.code == 1, done.log
    assert reports(folder)["thresholds"]["max_asr"] == {"value": 0.0001, "from": "command line"}


HIJACKED = ("venv", "pip", "secrets", "qadtr_device", "qadtr", "deploy", "numpy", "onnxruntime")


@pytest.mark.slow
def test_no_module_of_the_checkout_is_run(
    folder: Path,
    pipeline: Pipeline,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is judged cannot judge itself; a name that Python or pip looks for is not a program."""
    for name in (*HIJACKED, "json", "argparse", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text("import os; os.write(1, b'HIJACKED'); os._exit(0)\n")
    made = ["--json", str(folder / "baseline.json"), "--junit", str(folder / "b.xml")]
    assert validate([str(folder / "model.qbundle"), *made]) == 0
    wheels(tmp_path_factory.mktemp("wheels"), monkeypatch)
    for more in ({}, {"install": "true", "requirements": "none"}):
        given = {"bundle": "model.qbundle", "baseline": "baseline.json", **more}
        done = pipeline(folder, **given, max_asr="0.0001")
        assert done.code == 1, done.log
        assert "HIJACKED" not in done.log
        assert (folder / REPORTS / "comparison.json").is_file()
        done = pipeline(folder, **given)
        assert done.code == 0, done.log


def test_every_input_is_used_and_every_name_is_an_input() -> None:
    action = yaml.safe_load(ACTION.read_text())
    text = ACTION.read_text()
    used = {name for name in GITHUB_EXPRESSION.findall(text) if name.startswith("inputs.")}
    used |= {"inputs.upload-sarif", "inputs.cache"}  # in an `if`
    assert used == {f"inputs.{name}" for name in action["inputs"]}
    spec, _ = yaml.safe_load_all(GITLAB.read_text())
    assert set(GITLAB_INPUT.findall(GITLAB.read_text())) == set(spec["spec"]["inputs"])


@pytest.mark.parametrize("name", ['a b$(touch pwned)"`touch pwned`;touch pwned\n.qbundle', "-q"])
def test_a_name_is_a_name(
    name: str, files: dict[str, bytes], tmp_path: Path, pipeline: Pipeline
) -> None:
    write_stored_zip(tmp_path / name, files)
    done = pipeline(tmp_path, bundle=name)
    assert done.code == 0, done.log
    assert not list(tmp_path.rglob("*pwned"))
    assert reports(tmp_path)["bundle"]["file"] == name


def test_a_single_quote_ends_no_text(files: dict[str, bytes], tmp_path: Path) -> None:
    name = "a';touch pwned;'.qbundle"
    write_stored_zip(tmp_path / name, files)
    assert run_action(tmp_path, bundle=name, **HERE).code == 0
    with pytest.raises(InputRefused, match="bundle"):
        run_gitlab(tmp_path, bundle=name, validator="validate.pyz", **HERE)
    assert not list(tmp_path.rglob("*pwned"))


def test_what_a_bundle_prints_is_no_command_of_the_runner(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["name"] = "##[add-mask]a\n::add-mask::a"

    write_stored_zip(tmp_path / "model.qbundle", rehashed(files, change))
    log = run_action(tmp_path, bundle="model.qbundle", **HERE).log.splitlines()
    (start,) = [i for i, line in enumerate(log) if line.startswith("::stop-commands::")]
    end = log.index(f"::{log[start].removeprefix('::stop-commands::')}::")
    named = [i for i, line in enumerate(log) if "add-mask" in line]
    assert named
    assert all(start < i < end for i in named)


# ------------------------------------------------------------------ the files themselves


def schema_check(name: str, file: Path) -> None:
    words = ["-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", str(file)]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_action_fits_the_schema_of_actions() -> None:
    schema_check("github-actions", ACTION)


def test_the_template_fits_the_schema_of_gitlab(tmp_path: Path) -> None:
    name, job = gitlab_job(bundle="model.qbundle", validator="validate.pyz")
    filled = tmp_path / ".gitlab-ci.yml"
    filled.write_text(yaml.safe_dump({name: job}))
    schema_check("gitlab-ci", filled)
    header = next(iter(yaml.safe_load_all(GITLAB.read_text())))
    filled.write_text(yaml.safe_dump(header))
    schema_check("gitlab-ci", filled)


def test_the_pins_are_those_of_the_project() -> None:
    action = yaml.safe_load(ACTION.read_text())["inputs"]
    template = next(iter(yaml.safe_load_all(GITLAB.read_text())))["spec"]["inputs"]
    for name in ("numpy", "onnxruntime", "cryptography"):
        assert action[name]["default"] == template[name]["default"] == PINS[name]


def test_the_hashes_are_of_the_pins_and_of_all_that_they_need() -> None:
    lines = (ROOT / "templates" / "gate-requirements.txt").read_text().splitlines()
    listed = dict(re.findall(r"^([\w.-]+)==(\S+)", "\n".join(lines), re.MULTILINE))
    assert {name: PINS[name] for name in listed} == listed
    assert {"numpy", "onnxruntime", "cryptography", "protobuf", "cffi"} <= set(listed)
    hashes = [line for line in lines if not line.startswith("#") and "==" not in line]
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)


def test_a_version_without_a_hash_is_a_usage_error_that_says_what_to_do(folder: Path) -> None:
    given = {"bundle": "model.qbundle", "python": sys.executable, "numpy": "2.4.5"}
    done = run_action(folder, **given)
    assert done.code == 4 and "numpy==2.4.5 has no hash" in done.log and "none" in done.log


def test_actions_are_named_by_commit() -> None:
    for file in (ACTION, WORKFLOW, ROOT / "docs" / "ci.md"):
        used = re.findall(r"uses: (\S+)@(\S+)(.*)", file.read_text())
        for name, version, note in used:
            if name != "OWNER/qadtr":
                assert re.fullmatch("[0-9a-f]{40}", version), (file.name, name)
                assert re.fullmatch(r" # v\d+(\.\d+)+", note), (file.name, name)


def repacked(name: str, folder: Path) -> None:
    """Write the wheel that an installed package came from, so that pip needs no network."""
    found = metadata.distribution(name)
    tags = re.findall(r"^Tag: (.+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    stem = f"{found.metadata['Name'].replace('-', '_')}-{found.version}"
    with zipfile.ZipFile(folder / f"{stem}-{tags[-1]}.whl", "w") as wheel:
        rows = []
        for file in found.files or []:
            if ".." in file.parts or file.suffix == ".pyc" or file.name in ("RECORD", "INSTALLER"):
                continue
            wheel.write(file.locate(), str(file))
            rows.append(f"{file},,\n")
            if file.name == "WHEEL":
                record = str(file.parent / "RECORD")
        wheel.writestr(record, "".join([*rows, f"{record},,\n"]))


def wheels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pipelines install, in a folder that is pip's only index."""
    for name in ("numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf"):
        repacked(name, folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.mark.slow
def test_the_packages_are_installed_from_the_configured_index(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("wheels")
    wheels(place, monkeypatch)
    rows = []
    for wheel in sorted(place.iterdir()):
        name, version = wheel.name.split("-")[:2]
        rows.append(f"{name}=={version} --hash=sha256:{sha256_of(wheel)}\n")
    ours = {"bundle": "model.qbundle", "python": sys.executable, "requirements": "gate.txt"}
    (folder / "gate.txt").write_text(re.sub("sha256:.{64}", f"sha256:{'0' * 64}", "".join(rows)))
    done = run_action(folder, **ours)
    assert done.code == 2 and "DO NOT MATCH THE HASHES" in done.log, done.log
    (folder / "gate.txt").write_text("".join(rows))
    for requirements in ("gate.txt", "none"):
        done = run_action(folder, **ours | {"requirements": requirements})
        assert done.code == 0, done.log
    environment = folder / "runner temp" / "qadtr-gate"
    here = sorted(path.name for path in environment.glob("lib/*/site-packages/*.dist-info"))
    assert {"numpy", "onnxruntime", "pip"} <= {name.partition("-")[0] for name in here}
    assert not {"torch", "onnx", "qadtr"} & {name.partition("-")[0] for name in here}
