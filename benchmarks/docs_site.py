"""Hooks of the docs site (mkdocs.yml): files outside of docs/, and the reference.

README.md is the first page. A link that leaves docs/ leads to a copy of that file in the site, so
the site holds all that its pages speak of. The reference has an entry for each name of `qadtr`,
from its docstring at home.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from qadtr import _HOMES

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "SECURITY.md": "SECURITY.md"}
"""Pages of the site that are files of the repository's top."""

COPIES = "repository"
"""Folder of the site for the files that pages link to outside of docs/."""

REFERENCE = "reference.md"

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>)")
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and copies that docs/ does not hold."""
    texts = {page.src_uri: page.content_string for page in files.documentation_pages()}
    for source, page in PAGES.items():
        texts[page] = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=texts[page]))
    files.append(File.generated(config, REFERENCE, content=reference()))
    wanted = {
        target
        for page, text in texts.items()
        for target in _outside(text, _source_of(page))
        if target not in PAGES
    }
    for target in sorted(wanted):
        copy = File.generated(
            config, f"{COPIES}/{target}{_ENDING}", content=(ROOT / target).read_bytes()
        )
        files.append(copy)
    return files


_ENDING = ".txt"
"""Of a copy: a browser shows it, and no Markdown file among them becomes a page."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links that leave docs/ to the copies."""
    return _rewritten(markdown, page.file.src_uri, _source_of(page.file.src_uri))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Drop the roles of reStructuredText that docstrings name things by: the name is enough."""
    return _ROLE.sub("", html)


def reference() -> str:
    """The page of the reference."""
    lines = [
        "# Reference",
        "",
        "The names of `qadtr`, from their docstrings ([in a table](api.md)).",
        "",
    ]
    for name, home in sorted(_HOMES.items()):
        lines += [f"::: {home}.{name}", ""]
    return "\n".join(lines)


def _source_of(page: str) -> str:
    """The path in the repository of a page of the site."""
    of_page = {site: source for source, site in PAGES.items()}
    return of_page.get(page, f"docs/{page}")


def _outside(text: str, source: str) -> set[str]:
    """Files of the repository, outside of docs/, that a page links to."""
    found = (_target(link, source) for _, link, _, _ in _LINK.findall(text))
    return {path for path in found if path and not path.startswith("docs/")}


def _target(link: str, source: str) -> str | None:
    """The path in the repository that a link in the file ``source`` leads to, if it is there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path if (ROOT / path).is_file() else None


def _rewritten(text: str, page: str, source: str) -> str:
    def link(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        path = _target(target, source)
        if path is None:
            return found[0]
        if path in PAGES:
            path = PAGES[path]
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
        else:
            path = f"{COPIES}/{path}{_ENDING}"
        relative = posixpath.relpath(path, posixpath.dirname(page) or ".")
        return f"{before}{relative}{anchor or ''}{after}"

    return _LINK.sub(link, text)
