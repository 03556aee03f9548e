"""The frame of every page: one file, no network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.core.html import Child, Html, join, tag

# Nothing may be fetched, whatever a record says; the style sheet and the images are in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a page; ``key`` is its id, ``verdict`` is beside its heading."""

    key: str
    title: str
    body: Child
    verdict: Child = ""


def document(
    title: str,
    below: str,
    sections: Sequence[Section],
    *,
    skip: str = "",
    links: str = "Sections",
    footer: Child = (),
) -> str:
    """A whole HTML page with the project's style.

    Args:
        skip: words of the link to the first section for those who read by keyboard; without them
            the page has no links to its sections either.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    items = [tag("li", tag("a", one.title, href=f"#{one.key}")) for one in sections]
    navigation = tag("nav", tag("ul", items), aria_label=links) if skip else ""
    body = tag(
        "body",
        tag("a", skip, href=f"#{sections[0].key}", class_="skip") if skip else "",
        tag("header", tag("h1", title), soft(below, "p"), navigation, class_="page"),
        tag("main", [_section(one) for one in sections]),
        footer and tag("footer", footer),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _section(one: Section) -> Html:
    heading = f"{one.key}-title"
    verdict = join(" ", one.verdict) if one.verdict else ""
    return tag(
        "section",
        tag("h2", one.title, verdict, id=heading),
        one.body,
        id=one.key,
        aria_labelledby=heading,
    )


def captioned(title: str, detail: str, *children: Child) -> Html:
    """A figure with a caption of two lines above it."""
    caption = tag("figcaption", tag("strong", title), tag("br"), small(detail, "span"))
    return tag("figure", caption, *children)


def soft(text: str, name: str = "p") -> Html:
    """Text in grey."""
    return tag(name, text, class_="soft")


def small(text: str, name: str = "p") -> Html:
    """Text in grey, smaller."""
    return tag(name, text, class_="soft small")


def note(text: str) -> Html:
    """A paragraph that must not be missed."""
    return tag("p", text, class_="note")


def verdict(words: str, kind: str) -> Html:
    """A few words in a frame; ``kind``: "good", "bad", "warn" or ""."""
    return tag("span", words, class_=f"tag {kind}".strip())


def facts(pairs: Sequence[tuple[str, Child]]) -> Html:
    """Names with what they mean or are."""
    entries = [join(tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", entries, class_="facts")


STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f5f6f8; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --accent: #0b62b8; --warn-ground: #fff4d6; --warn-ink: #6b4a00; --good: #17693a; --bad: #b3261e;
  --bar: #cfe0f3; --heat: #f2a07b; --cool: #8fb8e8;
  --series-0: #0b62b8; --series-1: #c2410c; --series-2: #0f766e; --series-3: #8b2fa0;
  --series-4: #7a6200; --series-5: #9d174d; --floor: #7a828c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --raised: #1d2127; --ink: #e8ebef; --soft: #a3adb8; --line: #363d46;
    --accent: #79b8ff; --warn-ground: #3a2f10; --warn-ink: #ffdd8a; --good: #6fd39a;
    --bad: #ff9a92; --bar: #24405e; --heat: #8a3a17; --cool: #1f4c7e;
    --series-0: #79b8ff; --series-1: #ff9e64; --series-2: #5eead4; --series-3: #d6a4f0;
    --series-4: #e5cf6b; --series-5: #f59ac0; --floor: #99a3ae;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: auto; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main, header.page, footer { max-width: 80rem; margin: 0 auto; padding: 0 1.25rem; }
header.page { padding-top: 2rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .5rem;
     border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p, li { max-width: 46rem; overflow-wrap: break-word; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -100vw; }
.skip:focus { left: 1rem; top: 1rem; background: var(--ground); padding: .5rem; z-index: 1; }
.soft { color: var(--soft); }
.small { font-size: .85rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0;
         margin: 1rem 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: 1rem;
         margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--raised); border: 1px solid var(--line); border-radius: 8px;
            padding: .75rem 1rem; }
.tiles .value { display: block; font-size: 1.7rem; font-weight: 650; line-height: 1.2; }
.tiles .what { display: block; font-weight: 600; }
.note { background: var(--warn-ground); color: var(--warn-ink); border-radius: 6px;
        padding: .6rem .9rem; max-width: 46rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .6rem .75rem; color: var(--soft); font-size: .9rem; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top;
         border-top: 1px solid var(--line); }
thead th { background: var(--raised); font-size: .9rem; }
th small, td small { display: block; font-weight: 400; color: var(--soft); font-size: .8rem;
                     white-space: normal; }
td small { white-space: nowrap; }
td.number, th.number { text-align: right; }
tbody th { font-weight: 600; }
.wide tbody th { min-width: 7rem; }
tr.first th, tr.first td { border-top: 2px solid var(--soft); }
.checks td { min-width: 9rem; }
.checks tbody th { min-width: 12rem; }
.checks td small { white-space: normal; }
.tag { display: inline-block; border: 1px solid currentColor; border-radius: 4px;
       padding: 0 .35rem; font-size: .75rem; font-weight: 600; white-space: nowrap; }
.tag.bad { color: var(--bad); }
.tag.good { color: var(--good); }
.tag.warn { color: var(--warn-ink); background: var(--warn-ground); }
td.asr { min-width: 9rem; }
td.asr .bar { display: block; height: .3rem; border-radius: 2px; margin: .15rem 0;
  background: linear-gradient(90deg, var(--series-1) var(--share), var(--bar) var(--share)); }
td.asr.aside { opacity: .75; }
table.heat td { background: color-mix(in srgb, var(--heat) var(--share), var(--ground));
                text-align: center; border: 1px solid var(--line); }
table.heat td small { color: inherit; }
table.heat td.own { outline: 2px solid var(--ink); outline-offset: -3px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
          gap: 1.25rem; }
.charts.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); }
.charts { margin: .75rem 0; }
.charts > * { min-width: 0; }
figure { margin: 0; background: var(--raised); border: 1px solid var(--line); border-radius: 8px;
         padding: .75rem; break-inside: avoid; }
figcaption { font-size: .9rem; margin-bottom: .4rem; }
figure svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 12px; font-family: inherit; }
svg .soft { fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg.places text { font-size: 11px; }
svg .place { stroke: var(--line); stroke-width: 1; }
.maps { width: fit-content; max-width: 100%; }
.maps table { width: auto; }
.maps th { font-size: .85rem; }
.maps td { padding: .25rem; border: 0; }
.maps img { display: block; width: 5rem; height: auto; image-rendering: pixelated; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0;
          margin: .3rem 0 0; font-size: .85rem; }
.legend svg { display: inline-block; width: 26px; height: 12px; vertical-align: middle;
              margin-right: .3rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
           gap: 1rem; }
.gallery .images { display: flex; gap: .5rem; flex-wrap: wrap; }
.gallery img { image-rendering: pixelated; width: 8rem; height: auto; border-radius: 4px;
               border: 1px solid var(--line); background: var(--ground); }
.gallery table { font-size: .85rem; margin-top: .4rem; }
.gallery th, .gallery td { padding: .15rem .4rem; white-space: normal; }
.fooled { color: var(--bad); font-weight: 600; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem;
           margin: .5rem 0; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px;
      padding: .75rem; overflow-x: auto; font-size: .8rem; }
code { overflow-wrap: anywhere; }
footer { padding-bottom: 3rem; margin-top: 2.5rem; }
@media (max-width: 40rem) {
  svg text { font-size: 17px; }
  dl.facts { grid-template-columns: 1fr; }
  dl.facts dd { margin-bottom: .4rem; }
}
@page { size: A4 landscape; margin: 10mm; }
@media print {
  :root {
    color-scheme: light;
    --ground: #ffffff; --raised: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb;
    --accent: #000000; --warn-ground: #ffffff; --warn-ink: #000000; --good: #000000;
    --bad: #000000; --bar: #dddddd; --heat: #f2a07b; --cool: #8fb8e8;
    --series-0: #0b62b8; --series-1: #c2410c; --series-2: #0f766e; --series-3: #8b2fa0;
    --series-4: #7a6200; --series-5: #9d174d; --floor: #666666;
  }
  body { font-size: 10pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav, .skip { display: none; }
  .scroll { overflow: visible; border: 0; }
  main, header.page, footer { max-width: none; padding: 0; }
  table { font-size: 7pt; }
  caption, thead th, .maps th { font-size: 7pt; }
  th, td, .wide tbody th, .checks td, .checks tbody th, td.asr {
    padding: .15rem .25rem; min-width: 0;
  }
  th small, td small { padding: 0; font-size: 6pt; white-space: normal; }
  table.heat th { overflow-wrap: anywhere; }
  .tag { font-size: 6pt; padding: 0 .15rem; }
  figure { padding: .4rem; }
  figcaption, figcaption .small, .legend { font-size: 7.5pt; }
  .charts { grid-template-columns: repeat(3, 1fr); gap: .6rem; }
  .charts.small { grid-template-columns: repeat(5, 1fr); }
  .maps img { width: 2.4rem; }
  tr, li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  pre { white-space: pre-wrap; }
}
"""
"""Light and dark by the reader's system, white on paper."""
