"""One table in three forms, and what each of them makes of a hostile name."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from deploy.core.html import tag
from deploy.core.table import Cell, Table

TABLE = Table(
    title="What there is",
    columns=("name", "bits", Cell("ASR", html=["ASR", tag("small", "95%")])),
    rows=[
        ["plain", "float", "1.0%"],
        ["plain", "2", Cell("46.2%", html=tag("strong", "46.2%"), kind="asr", style="--share:46%")],
        ["defended", "2", "–"],
    ],
    align="lr",
    notes=["A note."],
)


def test_text_is_aligned_and_has_a_rule_under_the_headings() -> None:
    assert TABLE.text().splitlines() == [
        "What there is",
        "",
        "name       bits    ASR",
        "──────────────────────",
        "plain     float   1.0%",
        "plain         2  46.2%",
        "defended      2      –",
        "",
        "A note.",
    ]


def test_grouped_text_has_the_first_cell_once_above_its_group() -> None:
    grouped = Table(columns=TABLE.columns, rows=TABLE.rows, align="lr", grouped=True)
    assert grouped.text().splitlines() == [
        "   bits    ASR",
        "──────────────",
        "plain",
        "  float   1.0%",
        "      2  46.2%",
        "defended",
        "      2      –",
    ]


def test_without_headings_there_is_no_rule() -> None:
    assert Table(columns=("", ""), rows=[["a", "b"]]).text() == "a  b"


def test_markdown() -> None:
    assert TABLE.markdown().splitlines() == [
        "**What there is**",
        "",
        "| name | bits | ASR |",
        "| --- | ---: | ---: |",
        "| plain | float | 1.0% |",
        "| plain | 2 | 46.2% |",
        "| defended | 2 | – |",
        "",
        "A note.",
    ]


class Elements(HTMLParser):
    """What elements there are, and the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def test_html_can_be_read_without_seeing_it() -> None:
    page = Elements(TABLE.html(about="Rates"))
    assert page.found[0] == (
        "div",
        {"class": "scroll", "role": "region", "aria-label": "Rates", "tabindex": "0"},
    )
    assert [one["scope"] for one in page.all("th")] == ["col"] * 3 + ["row"] * 3
    assert [one.get("class") for one in page.all("td")] == [
        *("number", "number", "number", "asr", "number", "number"),
    ]
    assert page.all("td")[3]["style"] == "--share:46%"
    assert page.all("p") == [{"class": "soft small"}]
    assert {"What there is", "46.2%", "95%", "A note."} <= set(page.texts)


def test_html_sets_groups_off_and_leaves_an_empty_heading_out() -> None:
    grouped = Table(columns=("", "b"), rows=[["x", "1"], ["x", "2"], ["y", "3"]], grouped=True)
    page = Elements(grouped.html(frame=""))
    assert page.found[0][0] == "table"
    assert [row.get("class") for row in page.all("tr")] == [None, "first", None, "first"]
    assert len(page.all("th")) == 4
    assert page.all("caption") == []


HOSTILE = "<img src=x onerror=alert(1)> | [a](b)\n# c \x1b[2J"


def test_no_form_acts_on_a_name() -> None:
    table = Table(title=HOSTILE, columns=(HOSTILE,), rows=[[HOSTILE]], notes=[HOSTILE])
    assert "\x1b" not in table.text()
    # Title, blank line, heading, rule, row, blank line, note: the name's own break is gone.
    assert len(table.text().splitlines()) == 7
    page = Elements(table.html(about=HOSTILE, kind=HOSTILE))
    assert page.all("img") == []
    lines = table.markdown().splitlines()
    assert not any("<img" in line or "[a](" in line for line in lines)
    assert [line.count(" | ") for line in lines if line.startswith("|")] == [0, 0, 0]


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Table(columns=("a", "b"), rows=[["1"]]).text()
