"""Certificates against every patch of a size: a table for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.bit_widths import bits_label
from deploy.core.double_masking import asr_at_most
from deploy.core.html import Html, join
from deploy.core.table import Table
from deploy.core.text import shape_in_words
from eval.measure.certification_record import (
    CertificationRecord,
    certifications_from_records,
    worst_attack,
)
from eval.report.document import small
from eval.report.names import Names, names_from_records, names_of_models
from eval.report.words import images_words, model_order, percent, rate

_TRIED = "ASR tried (95%)"
_MEANING = (
    "Certified: masked inference classifies the image correctly, and no square patch of that "
    "size can change that, whatever it shows and wherever it lies. No attack is involved. A "
    "model that is run once, without masks, has no certificate."
)
_TRIED_MEANING = (
    "ASR tried: success rate of the worst patch that was tried against masked inference, over "
    "those of these images that it was made for."
)
_BOUND = (
    "ASR at most: share of the images without a certificate among those that masked inference "
    "classifies correctly without a patch. No attack with one such patch can exceed it, whatever "
    "the attacker knows."
)


def certification_table(
    records: Sequence[CertificationRecord], names: Names | None = None
) -> Table:
    """One row for each record, the wider bit-width and the smaller patch first; ``names`` of the
    networks, from these records where None."""
    names = names_of_models(record["model"] for record in records) if names is None else names
    rows = [_cells(record, names) for record in sorted(records, key=_order)]
    columns = [name for name in rows[0] if name != _TRIED or any(row[name] for row in rows)]
    return Table(
        columns=columns,
        rows=[[row[name] for name in columns] for row in rows],
        align="lll" + "r" * (len(columns) - 3),
        notes=[_MEANING, *([_TRIED_MEANING] if _TRIED in columns else []), _BOUND],
    )


def _cells(record: CertificationRecord, names: Names) -> dict[str, str]:
    """By column; what was not tried is empty."""
    attack = worst_attack(record)
    return {
        "network": names.of(record["model"]),
        "bits": bits_label(record["model"]["bit_width"]),
        "engine": record["model"]["engine"],
        "patch": f"{record['patch_px']} px",
        "masks": f"{record['masks']} of {shape_in_words(record['mask_px'])}",
        "clean": percent(record["clean"]["value"]),
        "masked inference": percent(record["masked"]["value"]),
        "certified (95%)": rate(record["certified"]),
        "n": str(record["certified"]["n"]),
        _TRIED: "" if attack is None else f"{rate(attack['asr'])}, {attack['patch']['name']}",
        "ASR at most (95%)": rate(asr_at_most(record["masked"], record["certified"])),
        "passes": f"{record['mean_passes']:.0f}",
        "ms an image": f"{record['mean_passes'] * record['ms_per_pass']:.3g}",
    }


def _order(record: CertificationRecord) -> tuple[object, ...]:
    model = record["model"]
    return *model_order(model), -model["bit_width"], record["patch_px"]


def certification_section(records: Iterable[Mapping[str, Any]]) -> Html:
    """A table for each set of images; nothing where there is no certificate.

    Raises:
        InputError: a record is not as the schema says.
    """
    records = list(records)
    names = names_from_records(records)
    groups: dict[tuple[str, int], list[CertificationRecord]] = {}
    for found in certifications_from_records(records):
        groups.setdefault((found["images"]["digest"], found["certified"]["n"]), []).append(found)
    parts: list[Html] = []
    for (_, count), group in groups.items():
        images = images_words(group[0]["images"], count)
        table = certification_table(group, names)
        parts += [small(images), table.html(about=f"Certificates, {images}")]
    return join(parts)
