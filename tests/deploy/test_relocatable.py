"""The folders deploy/core and deploy/device run anywhere, with the standard library and numpy."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.bundle import MAIN
from deploy.core.stored_zip import write_stored_zip
from deploy.validator_archive import validator_bytes, validator_files
from tests.deploy.device.conftest import contents, files

__all__ = ["contents", "files"]  # fixtures

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDERS = ("core", "device")


def test_a_copy_under_another_name_imports_without_onnxruntime(tmp_path: Path) -> None:
    for folder in FOLDERS:
        shutil.copytree(
            DEPLOY / folder,
            tmp_path / "moved" / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    names = sorted(
        f"moved.{folder}.{path.stem}"
        for folder in FOLDERS
        for path in (DEPLOY / folder).glob("*.py")
        if path.stem[0] != "_"
    )
    assert len(names) > 30
    code = "\n".join(
        [
            "import importlib, sys",
            f"sys.path.insert(0, {str(tmp_path)!r})",
            *(f"importlib.import_module({name!r})" for name in names),
            "roots = {name.partition('.')[0] for name in sys.modules}",
            "unwanted = {'onnxruntime', 'deploy', 'training', 'torch', 'onnx', 'cryptography'}",
            "print(sorted(roots & unwanted))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_imports_are_relative_or_of_the_standard_library_numpy_and_onnxruntime() -> None:
    allowed = sys.stdlib_module_names | {"numpy"}
    for path in (path for folder in FOLDERS for path in (DEPLOY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            foreign = {name.partition(".")[0] for name in names} - allowed
            expected = {
                "onnxruntime_engine.py": {"onnxruntime"},
                "signature.py": {"cryptography"},  # inside functions: only where it is asked for
            }
            assert foreign <= expected.get(path.name, set()), path


OLD = ("python2.7", *(f"python3.{minor}" for minor in range(6, 10)))
REFUSED = tuple(name.removeprefix("python") for name in OLD)


def interpreters() -> dict[str, str]:
    """The Pythons of this machine by version, the system's and pyenv's."""
    found: dict[str, str] = {}
    pyenv = Path.home() / ".pyenv" / "versions"
    places = [*sorted(pyenv.glob("*/bin/python")), *map(Path, filter(None, map(shutil.which, OLD)))]
    for place in places:
        code = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
        done = subprocess.run(
            [str(place), "-c", code], capture_output=True, text=True, check=False, timeout=30
        )
        if done.returncode == 0:
            found.setdefault(done.stdout, str(place))
    return found


def test_old_pythons_are_refused_with_2(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Those that are installed here."""
    (tmp_path / "validate.pyz").write_bytes(validator_bytes())
    write_stored_zip(tmp_path / "b.qbundle", files)
    old = {version: path for version, path in interpreters().items() if version in REFUSED}
    if not old:
        pytest.skip("no Python older than 3.10 here")
    for version, python in old.items():
        for archive in ("validate.pyz", "b.qbundle"):
            done = subprocess.run(
                [python, archive, "x"], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 2, (version, done.stderr)
            said = f"validate: needs Python 3.10 or newer, this is {version}\n"
            assert (done.stdout, done.stderr) == ("", said)


def test_everything_that_travels_parses_in_python_3_10() -> None:
    for path in (path for folder in FOLDERS for path in (DEPLOY / folder).rglob("*.py")):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    for text in (validator_files()["__main__.py"].decode(), MAIN):
        tree = ast.parse(text)
        used = {type(node) for node in ast.walk(tree)}
        assert not used & {ast.JoinedStr, ast.Starred, ast.AnnAssign, ast.NamedExpr}  # not in 2.7


NEWER_THAN_3_10 = {
    "typing": "Self Never LiteralString assert_never assert_type reveal_type Required NotRequired "
    "Unpack TypeVarTuple dataclass_transform override TypeAliasType ReadOnly TypeIs get_overloads",
    "enum": "StrEnum ReprEnum EnumCheck verify member nonmember global_enum show_flag_values",
    "datetime": "UTC",
    "contextlib": "chdir",
    "hashlib": "file_digest",
    "itertools": "batched",
    "math": "cbrt exp2 sumprod fma",
    "operator": "call",
    "tomllib": "load loads",
}
"""What the standard library has had since 3.11 or later."""


def test_nothing_that_travels_imports_what_python_3_10_has_not() -> None:
    for path in (path for folder in FOLDERS for path in (DEPLOY / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                newer = NEWER_THAN_3_10.get(node.module or "", "").split()
                assert not {alias.name for alias in node.names} & set(newer), path
            elif isinstance(node, ast.Import):
                assert "tomllib" not in {alias.name for alias in node.names}, path
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.attr not in NEWER_THAN_3_10.get(node.value.id, "").split(), path


PYTHON_3_10 = os.environ.get("PYTHON_3_10") and str(Path(os.environ["PYTHON_3_10"]).absolute())
"""A Python 3.10 with numpy and onnxruntime: an environment of its own."""


@pytest.mark.skipif(PYTHON_3_10 is None, reason="make test-python310 makes the environment")
def test_python_3_10_runs_the_archive(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert PYTHON_3_10 is not None
    (tmp_path / "validate.pyz").write_bytes(validator_bytes())
    write_stored_zip(tmp_path / "b.qbundle", files)
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    for words, code in (
        (["validate.pyz", "b.qbundle"], 0),
        (["b.qbundle", "--quick"], 0),
        (["validate.pyz", "b.qbundle", "--max-asr", "0.0001"], 1),
        (["validate.pyz", "validate.pyz"], 2),
        (["validate.pyz", "b.qbundle", "--search", "--queries", "50", "--search-images", "8"], 0),
        (["validate.pyz", "--nonsense"], 4),
    ):
        done = subprocess.run(
            [PYTHON_3_10, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (words, done.stderr)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["host"]["python"].startswith("3.10.")
    shutil.copy(tmp_path / "report.json", tmp_path / "old.json")
    done = subprocess.run(
        [PYTHON_3_10, "-m", "qadtr_device.compare_command", "old.json", "report.json"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": "validate.pyz"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
