"""The docs site: built without a warning, whole, and every page two clicks from the first."""

from __future__ import annotations

import os
import posixpath
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import qadtr

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Links(HTMLParser):
    """Where a page leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            self.leads.append(str(given["href"]))
        loaded = given.get("href") if tag == "link" else given.get("src")
        if loaded and given.get("rel") != "canonical":
            self.loads.append(loaded)


def links(site: Path, page: str) -> tuple[set[str], list[str]]:
    """The pages of the site that a page leads to, and what it loads."""
    found = Links((site / page).read_text(encoding="utf-8"))
    here = posixpath.dirname(page)
    parts = (urlsplit(link) for link in found.leads)
    paths = (
        posixpath.normpath(posixpath.join(here, unquote(one.path)))
        for one in parts
        if not one.scheme and one.path
    )
    return {path for path in paths if path.endswith(".html")}, found.loads


def test_every_page_is_two_clicks_from_the_first(site: Path) -> None:
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"404.html"}
    first = {"index.html"}
    once = first | links(site, "index.html")[0]
    twice = once | {page for known in once & pages for page in links(site, known)[0]}
    assert pages <= twice
    assert twice <= pages, "a link leads nowhere"
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    # A README is the first page of its folder.
    expected = {str(path.with_suffix(".html")).replace("README", "index") for path in documents}
    assert expected <= pages


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for loaded in Links(page.read_text(encoding="utf-8")).loads:
            assert not urlsplit(loaded).netloc, (page.name, loaded)


def test_links_out_of_the_docs_lead_to_copies(site: Path) -> None:
    for page in set(site.rglob("*.html")) - {site / "404.html"}:
        found = Links(page.read_text(encoding="utf-8"))
        for link in found.leads:
            target = urlsplit(link)
            if not target.scheme and target.path:
                assert (page.parent / unquote(target.path)).exists(), (page.name, link)
    assert (site / "repository" / "action.yml.txt").read_bytes() == (
        ROOT / "action.yml"
    ).read_bytes()


def test_the_reference_has_every_public_name_with_its_docstring(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    for name, home in qadtr._HOMES.items():
        assert f'id="{home}.{name}"' in text, name
        words = (getattr(qadtr, name).__doc__ or "").split()[:3]
        assert all(word.strip("`.,:") in text for word in words)
    assert ":class:<code>" not in text
