"""What the documents tell a reader to type exists, and what they link to is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from deploy.device.arguments import build_parser as validate_parser
from deploy.engine import ENGINES
from deploy.tensorrt.__main__ import build_parser as tensorrt_parser
from qadtr.__main__ import build_parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SHELL_BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def typed_commands(first_word: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for block in SHELL_BLOCK.findall(document.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["$"]:
                    words = words[1:]
                if words[:1] == [first_word]:
                    found.append((document.name, shlex.join(words[1:])))
    return found


def test_the_readme_shows_the_two_commands() -> None:
    assert {words for name, words in typed_commands("make") if name == "README.md"} >= {
        "demo",
        "test",
    }


def after_torchrun() -> list[tuple[str, str]]:
    """What torchrun is told to start, of the lines that start qadtr with it."""
    lines = [(name, shlex.split(words)) for name, words in typed_commands("torchrun")]
    return [(name, shlex.join(words[words.index("-m") + 2 :])) for name, words in lines]


@pytest.mark.parametrize(("document", "words"), [*typed_commands("qadtr"), *after_torchrun()])
def test_a_documented_command_is_one_the_parser_takes(document: str, words: str) -> None:
    arguments = build_parser().parse_args(shlex.split(words))
    assert callable(arguments.execute)


@pytest.mark.parametrize(("document", "target"), typed_commands("make"))
def test_a_documented_make_target_exists(document: str, target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{re.escape(target.split()[0])}:", makefile, re.MULTILINE)


MODULES = {"deploy.tensorrt": tensorrt_parser(), "deploy.validate": validate_parser(tuple(ENGINES))}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (document, words)
        for document, words in typed_commands("python")
        if shlex.split(words)[1:2] and shlex.split(words)[1] in MODULES
    ],
)
def test_a_documented_module_takes_these_words(document: str, words: str) -> None:
    _, module, *arguments = shlex.split(words)
    parsed = MODULES[module].parse_args(arguments)
    assert parsed.engine in ENGINES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = [
        link
        for link in LINK.findall(document.read_text(encoding="utf-8"))
        if "://" not in link and not (document.parent / link).exists()
    ]
    assert broken == []


def test_the_changelog_names_what_the_wheel_holds_and_nothing_twice() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["setuptools"]["packages"]["find"]["include"]
    named = re.findall(r"python -m ([\w.]+)|`(\w+)/[\w/]+\.py", text)
    assert named
    packages = {(module or folder).split(".")[0] + "*" for module, folder in named}
    assert packages <= set(shipped)
    for version in re.split(r"(?m)^## ", text)[1:]:
        headings = re.findall(r"(?m)^### .*$", version)
        assert len(headings) == len(set(headings))
        entries = re.split(r"(?m)^- ", version)[1:]
        assert len(entries) == len(set(entries))
    # An entry is a sentence: a line that begins with small letters continues one that goes on.
    torn = re.findall(r"(?m)[.]\n  [a-z].*", re.sub(r"\([^)]*\)|`[^`]*`", "X", text))
    assert torn == []
