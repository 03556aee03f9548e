"""The folders deploy/core and deploy/device run anywhere, with the standard library and numpy."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

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
