"""The report as a browser shows it: `make test-browser`, with Chromium in headless mode.

The page is made from a small run with patches, patched images, pixel attacks and analyses, and from
the records that the repository holds, so it has every section.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.stages.report import write_report
from qadtr.__main__ import main

pytestmark = pytest.mark.browser

RESULTS = Path(__file__).resolve().parents[2] / "results" / "cifar10-resnet8-cpu"
WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def report(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = shutil.copytree(exported, folder / "run")
    patch = ["patch", str(run), "--steps", "3", "--images", "24"]
    assert main([*patch, "--attack", "lavan", "--size", "6"]) == 0
    assert main([*patch, "--attack", "lavan", "--size", "8"]) == 0
    assert main([*patch, "--attack", "lavan", "--size", "8", "--bits", "4"]) == 0
    assert main(["eval", str(run), "--patches", str(run / "patches")]) == 0
    assert main(["pixel", str(run), "--attack", "fgsm", "--images", "24"]) == 0
    analyses = ["analyze", str(run), "--patches", str(run / "patches"), "--images", "12"]
    assert main([*analyses, "--stride", "6"]) == 0
    results = [path for path in sorted(RESULTS.iterdir()) if path.is_dir()]
    return write_report([run, *results], folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert executable, "no chromium: apt-get install chromium, or name one in $CHROMIUM"
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=flags)
        yield opened
        opened.close()


@pytest.fixture(params=[(w, s) for w in WIDTHS for s in ("light", "dark")], ids="-".join)
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme, offline=True
    )
    opened = context.new_page()
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("requestfailed", lambda request: opened.said.append(request.url))
    opened.name = f"report-{width}-{scheme}.png"
    opened.goto(report.as_uri())
    yield opened
    context.close()


def test_nothing_is_wrong_on_the_page(page: Any) -> None:
    assert page.said == []
    too_wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert too_wide <= 0
    # Whatever is wider than the page scrolls inside a region of its own.
    loose = page.evaluate(
        """[...document.querySelectorAll('main *')]
           .filter(e => !e.closest('.scroll, svg, pre'))
           .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
           .map(e => e.outerHTML.slice(0, 90))"""
    )
    assert loose == []
    folder = os.environ.get("QADTR_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / page.name, full_page=True)


def test_every_section_is_there(page: Any) -> None:
    sections = page.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id)")
    wanted = "summary results curves transfer pixel analyses gallery engine provenance"
    assert set(sections) >= set(wanted.split())
    linked = page.evaluate(
        "[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))"
    )
    assert linked == [f"#{section}" for section in sections]


def test_pictures_have_words(page: Any) -> None:
    images = page.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.trim().length])"
    )
    assert images
    assert all(shown and length > 0 for shown, length in images)
    charts = page.evaluate(
        """[...document.querySelectorAll('svg[role=img]')].map(s =>
           ['title', 'desc'].every(name => s.querySelector(name).textContent.length > 0))"""
    )
    assert charts
    assert all(charts)
    places = page.evaluate(
        """[...document.querySelectorAll('svg.places g')].map(g =>
           /^top \\d+ px, left \\d+ px: /.test(g.querySelector('title').textContent))"""
    )
    assert places
    assert all(places)
    assert page.evaluate("document.querySelectorAll('.maps img').length") > 0


def test_it_is_reached_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    stops = page.evaluate("document.querySelectorAll('a, summary, [tabindex]').length")
    for _ in range(stops):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            page.keyboard.press("Enter")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || ''"))
    regions = page.evaluate(
        "[...document.querySelectorAll('[role=region]')].map(e => e.getAttribute('aria-label'))"
    )
    assert regions
    assert set(regions) <= reached


def test_text_has_contrast(page: Any) -> None:
    """WCAG 2.1, 1.4.3: at least 4.5:1 between text and the ground it stands on."""
    worst = page.evaluate(
        """(() => {
          const canvas = document.createElement('canvas').getContext('2d');
          const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
          const linear = v => v / 255 <= 0.03928 ? v / 255 / 12.92
            : ((v / 255 + 0.055) / 1.055) ** 2.4;
          const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1])
            + 0.0722 * linear(c[2]);
          const ground = e => { for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
            return [255, 255, 255]; };
          const between = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          let worst = [99, ''];
          for (const e of document.querySelectorAll('svg.places g:has(text)')) {
            const fill = name => light(rgb(getComputedStyle(e.querySelector(name)).fill));
            const ratio = between(fill('text'), fill('rect'));
            if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 240)];
          }
          for (const e of document.querySelectorAll('main *, header *')) {
            const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
            if (!own || e.closest('svg') || !e.getClientRects().length) continue;
            const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
            const ratio = between(a, b);
            if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 120)];
          }
          return worst; })()"""
    )
    assert worst[0] >= 4.5, worst


def test_it_fits_on_paper(browser: Any, report: Path) -> None:
    """A4 as the page asks for it: nothing cut off, nothing folded away, on a white ground."""
    context = browser.new_context(
        viewport={"width": 1047, "height": 718}, color_scheme="dark", offline=True
    )
    page = context.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    cut = page.evaluate(
        """[...document.querySelectorAll('main *')].filter(e => !e.closest('svg'))
           .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
           .map(e => e.outerHTML.slice(0, 90))"""
    )
    assert cut == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    folded = page.evaluate(
        """[...document.querySelectorAll('details > :not(summary)')]
           .filter(e => !e.checkVisibility({contentVisibilityAuto: true}) ||
                        e.getBoundingClientRect().height === 0).length"""
    )
    assert folded == 0
    paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF-")
    folder = os.environ.get("QADTR_SCREENSHOTS")
    if folder:
        (Path(folder) / "report.pdf").write_bytes(paper)
    context.close()
