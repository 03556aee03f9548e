"""The parity page: self-contained, every number in it, nothing but colour to tell it from plain."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from eval.report.parity_page import parity_page
from export.budget import Budget
from export.parity_report import LayerParity, Parity


def layer(name: str, **changes: object) -> LayerParity:
    plain = LayerParity(
        name=name, operator="QLinearConv", tensor=name, values=1000, different=0,
        largest_difference=0, distinct_codes=9, flips=0, largest_flip=0,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def parity(**changes: object) -> Parity:
    plain = Parity(
        model="onnxruntime-4.onnx", model_sha256="ab" * 32, reference_sha256="ab" * 32,
        engine="onnxruntime-cpu", images=10, classes=4,
        layers=(
            layer("stem"), layer("first.wide", flips=None, largest_flip=None),
            layer("first", flips=25, largest_flip=2),
        ),
        logits_different=0, largest_logit_difference=0.0, predictions_different=0,
        predicted_classes=4, first_departure=None, flips=(3,), agreement=0.9, failures=(),
        first_flip="first", fake_logits_different=7, largest_fake_logit_difference=0.25,
        budget=Budget(logits=None, flips=0.005, code_flips=0.05),
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


class Outline(HTMLParser):
    """Open elements, attributes, text of cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_needs_nothing_else_and_can_be_read_without_seeing_it() -> None:
    page = parity_page("run <1>", [parity(), parity(model="onnxruntime-2.onnx")])
    outline = Outline(page)
    assert not outline.open
    assert "run &lt;1&gt;" in page
    assert "<script" not in page
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    tags = [tag for tag, _ in outline.attributes]
    assert tags.count("svg") == tags.count("desc") == tags.count("caption") == 2
    assert all(a.get("role") == "img" for tag, a in outline.attributes if tag == "svg")
    assert all("scope" in a for tag, a in outline.attributes if tag == "th")
    ids = [a["id"] for _, a in outline.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    assert ("html", {"lang": "en"}) in outline.attributes


def test_every_layer_has_its_numbers_and_the_first_flip_its_mark() -> None:
    outline = Outline(parity_page("run", [parity()]))
    rows = {row[0].split()[0]: row for row in outline.rows[1:]}
    assert rows["first"][2:] == ["1,000", "0", "0", "25", "2.5000%", "2"]
    assert "flips first" in rows["first"][0]
    assert rows["first.wide"][5:] == ["–", "–", "–"]
    assert "first" not in rows["stem"][0]


def test_a_departure_is_told_as_one() -> None:
    broken = parity(
        layers=(layer("stem", different=500, largest_difference=3),),
        first_departure="stem",
        failures=("codes differ first at layer 'stem'",),
    )
    page = parity_page("run", [broken])
    assert "no parity" in page
    assert "codes differ first at layer 'stem'" in page
    assert "departs first" in Outline(page).rows[1][0]
    # Half of the codes: the bar ends one 23rd of the scale before its end.
    widths = re.findall(r'<rect[^>]* width="([\d.]+)"', page)
    assert widths == ["0", "373.23"]
