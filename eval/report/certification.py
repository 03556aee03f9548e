"""Certificates against every patch of a size: a table for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.bit_widths import bits_label
from deploy.core.html import Html, join
from deploy.core.table import Table
from eval.measure.certification_record import CertificationRecord, certifications_from_records
from eval.report.document import small
from eval.report.words import images_words, name_of, percent, rate

_COLUMNS = (
    *("network", "bits", "engine", "patch", "masks", "clean", "masked inference"),
    *("certified (95%)", "n", "passes", "ms an image"),
)
_MEANING = (
    "Certified: by masked inference the image is right, and stays right whatever a square patch of "
    "that size shows and wherever it lies; no attack is involved. A model that is asked once, "
    "without masks, has no certificate."
)


def certification_table(records: Sequence[CertificationRecord]) -> Table:
    """One row for each record."""
    return Table(
        columns=_COLUMNS,
        rows=[
            [
                name_of(record["model"]),
                bits_label(record["model"]["bit_width"]),
                record["model"]["engine"],
                f"{record['patch_px']} px",
                f"{record['masks']} of {'×'.join(map(str, record['mask_px']))}",
                percent(record["clean"]["value"]),
                percent(record["masked"]["value"]),
                rate(record["certified"]),
                str(record["certified"]["n"]),
                f"{record['mean_passes']:.0f}",
                f"{record['mean_passes'] * record['ms_per_pass']:.3g}",
            ]
            for record in records
        ],
        align="lllrrrrrrrr",
        notes=[_MEANING],
    )


def certification_section(records: Iterable[Mapping[str, Any]]) -> Html:
    """A table for each set of images; nothing where there is no certificate.

    Raises:
        InputError: a record is not as the schema says.
    """
    groups: dict[tuple[str, int], list[CertificationRecord]] = {}
    for found in certifications_from_records(records):
        groups.setdefault((found["images"]["digest"], found["certified"]["n"]), []).append(found)
    parts: list[Html] = []
    for (_, count), group in groups.items():
        images = images_words(group[0]["images"], count)
        parts += [small(images), certification_table(group).html(about=f"Certificates, {images}")]
    return join(parts)
