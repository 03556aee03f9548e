"""Patches, and images without and with them, as figures."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.examples import Example
from eval.report.html import Html, join, tag
from eval.report.pictures import Picture, image_tag


def gallery(pictures: Sequence[Picture], examples: Sequence[Example]) -> Html:
    """Both kinds of figures under a heading each; nothing where there are none."""
    parts: list[Html] = []
    if pictures:
        figures = [_figure(picture) for picture in pictures]
        parts += [tag("h3", "Patches"), tag("div", figures, class_="gallery")]
    if examples:
        parts += [
            tag("h3", "Images without and with a patch"),
            tag("p", "The first images of each patch set, not chosen by outcome.", class_="soft"),
            tag("div", [_example(e) for e in examples], class_="gallery"),
        ]
    return join(parts)


def _figure(picture: Picture) -> Html:
    images = [image_tag(p, alt) for p, alt in zip(picture.pngs, picture.alts, strict=True)]
    return tag(
        "figure",
        tag("figcaption", tag("strong", picture.title), tag("br"), _soft(picture.detail)),
        tag("div", images, class_="images"),
    )


def _example(example: Example) -> Html:
    what = f"image {example.index}: {example.label}"
    rows = [
        tag(
            "tr",
            tag("th", said.model, scope="row"),
            _answer(said.clean, example.label),
            _answer(said.patched, example.label),
        )
        for said in example.predictions
    ]
    head = tag("tr", [tag("th", text, scope="col") for text in ("model", "without", "with")])
    return tag(
        "figure",
        tag("figcaption", tag("strong", what), tag("br"), _soft(f"patch {example.patch_name}")),
        tag(
            "div",
            image_tag(example.clean_png, f"Without the patch: {what}"),
            image_tag(example.patched_png, f"With the patch {example.patch_name}: {what}"),
            class_="images",
        ),
        tag("table", tag("thead", head), tag("tbody", rows)),
    )


def _answer(said: str, truth: str) -> Html:
    # Not by colour alone: a wrong answer is marked by a sign, too.
    return tag("td", said) if said == truth else tag("td", f"✗ {said}", class_="fooled")


def _soft(text: str) -> Html:
    return tag("span", text, class_="soft small")
