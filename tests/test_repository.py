"""Rules of the repository that no single package can hold."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qadtr", "eval", "export", "training", "deploy")

# In pieces, so that this file does not hold what it looks for; "me" is a made-up user.
MACHINE_PATH = re.compile(
    r"(?<![\w.$}-])/(?:"
    + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"])
    + r")/(?!me/)"
)
REGISTRY_HOST = re.compile("index" + r"-url[ =]|find" + r"-links[ =]|" + "pypi" + r"\.org")


def tracked_text_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def test_every_tracked_module_is_linted() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    linted = set(map(Path, shown.stdout.splitlines()))
    modules = {path for path in tracked_text_files() if path.suffix == ".py"}
    assert len(modules) > 500
    assert modules - linted == set()


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_the_one_of_this_repository(name: str) -> None:
    # The names are generic: another distribution's `training` or `eval` must not win.
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().is_relative_to(ROOT / name)


@pytest.mark.parametrize(
    ("statement", "blocked"),
    [
        ("import qadtr", ("numpy", "torch", "onnx", "onnxruntime", "brevitas", "pydantic")),
        (
            "import qadtr.__main__ as m; m.build_parser()",
            ("torch", "onnx", "onnxruntime", "brevitas", "PIL", "sklearn", "tqdm", "pydantic"),
        ),
        (
            "from deploy.core import errors, files, pasting, patch_set, records, success",
            ("torch", "onnx", "onnxruntime", "brevitas", "PIL", "sklearn", "scipy", "tqdm"),
        ),
        (
            "import deploy.engine, deploy.core.latency, deploy.device.onnxruntime_engine",
            ("torch", "onnx", "brevitas", "PIL", "sklearn", "scipy", "tqdm"),
        ),
    ],
)
def test_imports_need_no_more_than_promised(statement: str, blocked: tuple[str, ...]) -> None:
    # None in sys.modules makes an import of that name fail, as it does where it is not installed.
    program = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n{statement}\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_tracked_files_hold_no_path_of_a_machine_and_no_package_index() -> None:
    found = []
    for path in tracked_text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_every_requirement_of_the_extras_of_the_two_commands_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    makefile = (ROOT / "Makefile").read_text()
    extras = re.search(r"^EXTRAS := (.+)$", makefile, re.MULTILINE)
    assert extras is not None
    wanted = list(project["dependencies"])
    for extra in extras[1].split(","):
        wanted += project["optional-dependencies"][extra]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted} - {"qadtr"}  # type: ignore[index]

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, f"not an exact pin: {line}"
            assert "+" not in version, f"a local version is on one index alone: {line}"
            pins[_normal(name)] = version
    assert {_normal(name) for name in names} <= set(pins)


def test_what_is_pinned_takes_the_oldest_python_of_the_readme() -> None:
    """An early 3.11, as Debian 12 has it: a pin that asks for a later patch cannot be installed."""
    ask_for_more = {
        f"{one.metadata['Name']} {one.version}: {asked}"
        for one in distributions()
        if "Requires-Python" in one.metadata
        and not SpecifierSet(asked := one.metadata["Requires-Python"]).contains("3.11.0")
    }
    assert ask_for_more == set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_that_a_user_installs_has_its_licence_on_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: of for name, of in project["optional-dependencies"].items() if name != "dev"}
    wanted = [*project["dependencies"], *(one for of in extras.values() for one in of)]
    names = {re.split(r"[^\w.-]", one)[0] for one in wanted} - {"qadtr"}
    page = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|[^|]+\| [^|]+ \|$", page, re.MULTILINE)
    listed = {name for row in rows[1:] for name in row.split(", ")} - {"---"}
    assert names == listed
