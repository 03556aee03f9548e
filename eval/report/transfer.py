"""Transfer matrices from evaluation records, as text and as heat maps.

One matrix is one attack (kind, size, place, target and all other settings) on one set of images:
sources are its rows, targets its columns. Beside each ASR stands that over the common set: the
images that every target of the matrix classifies correctly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.bit_widths import bits_label
from deploy.core.errors import NothingToEvaluate
from deploy.core.html import Html, join, tag
from deploy.core.table import Cell, Table
from eval.measure.checks.checks_record import AttackChecks
from eval.measure.evaluation_record import EvaluationRecord, asr_over_common_set
from eval.report.attacks import attack_key, attack_settings
from eval.report.document import small
from eval.report.names import Names, differing_settings, names_of_models
from eval.report.rows import PatchResult
from eval.report.words import (
    MISSING,
    PLAIN,
    images_words,
    interval,
    model_name,
    model_order,
    percent,
    rate,
)

_SAID = ("size_px", "placement", "bit_widths")
"""Settings of an attack that are in the words of a matrix or of a source."""

LEAST = 2
"""Sources and targets of a matrix that is worth a map; a single row stands in the main table."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells of one attack, by the names of source (row) and target (column)."""

    title: str
    images: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[tuple[str, str], PatchResult]

    @property
    def transfers(self) -> bool:
        """Whether a patch of one source was tried on several targets, and a target had several."""
        tried = [sum((s, t) in self.cells for t in self.targets) for s in self.sources]
        had = [sum((s, t) in self.cells for s in self.sources) for t in self.targets]
        return max(tried, default=0) >= LEAST and max(had, default=0) >= LEAST


def matrix_text(records: Sequence[EvaluationRecord], checks: AttackChecks) -> str:
    """Every matrix as text: a line for each source and target; a rate of a target whose attack
    checks tripped is marked.

    Raises:
        NothingToEvaluate: there is no record.
    """
    if not records:
        raise NothingToEvaluate("no evaluation record found in the matrix's folder")
    names = names_of_models(record["model"] for record in records)
    matrices = matrices_of(records, checks, names)
    return "\n\n".join(_lines(matrix).text() for matrix in matrices) or "one cell only"


def _lines(matrix: Matrix) -> Table:
    there = [(s, t) for s in matrix.sources for t in matrix.targets if (s, t) in matrix.cells]
    return Table(
        title=f"{matrix.title}; {matrix.images}",
        columns=("source", "target", "ASR (95%)", "n", "common set", "noise"),
        rows=[
            [
                source,
                target + (" *" if cell.whitebox else ""),
                rate(cell.asr, cell.mark),
                str(cell.asr["n"]),
                _of_common(cell),
                percent(cell.floor["value"]),
            ]
            for source, target in there
            for cell in [matrix.cells[source, target]]
        ],
        align="llr",
        notes=["* source and target share their weights", *_lower_bound([matrix])],
    )


def heat_maps(matrices: Sequence[Matrix]) -> Html:
    """One map for each matrix with several sources and targets; nothing where there is none."""
    shown = [matrix for matrix in matrices if matrix.transfers]
    if not shown:
        return Html("")
    explained = (
        "A row is the network that a patch was made on, a column is a network that it was tried "
        "on. Large: ASR over the images that this target classifies correctly; below it the 95% "
        "interval, then the ASR over the common set, which is the images that every target of "
        "the map classifies correctly. A frame marks a patch made on the target's own weights "
        "(white-box)."
    )
    maps = [_map(m).html(about=f"Transfer matrix: {m.title}", kind="heat") for m in shown]
    return join(small(" ".join([explained, *_lower_bound(shown)])), maps)


def _of_common(cell: PatchResult) -> str:
    common = cell.common
    if common is None:
        return MISSING
    return f"{percent(common['value'])}{cell.mark} of {common['n']:,}"


def _lower_bound(matrices: Sequence[Matrix]) -> list[str]:
    marked = any(cell.mark for matrix in matrices for cell in matrix.cells.values())
    return [LOWER_BOUND] if marked else []


def _map(matrix: Matrix) -> Table:
    return Table(
        title=f"{matrix.title}; {matrix.images}",
        columns=["made on ↓ tried on →", *matrix.targets],
        rows=[
            [source, *(_cell(matrix.cells.get((source, target))) for target in matrix.targets)]
            for source in matrix.sources
        ],
    )


def _cell(cell: PatchResult | None) -> Cell:
    if cell is None:
        return Cell(MISSING)
    return Cell(
        rate(cell.asr, cell.mark),
        html=[
            tag("strong", cell.rate),
            tag("small", f"{interval(cell.asr)} · n {cell.asr['n']:,}"),
            tag("small", MISSING if cell.common is None else f"common {_of_common(cell)}"),
            tag("small", f"noise {percent(cell.floor['value'])}"),
        ],
        kind="own" if cell.whitebox else None,
        style=f"--share:{100 * cell.asr['value']:.1f}%",
    )


def matrices_of(
    records: Iterable[EvaluationRecord], checks: AttackChecks, names: Names
) -> tuple[Matrix, ...]:
    """Every matrix that the records hold with two cells or more; a newer record replaces an older
    one of the same cell. Attacks that would read the same are told apart by the settings in which
    they differ, sources by the start of their checkpoint's hash.

    Raises:
        InputError: records of one attack that are for different images.
    """
    records = list(records)
    sources = _sources(records)
    groups: dict[tuple[str, ...], dict[tuple[str, str], EvaluationRecord]] = {}
    for record in records:
        cell = (sources[_source_key(record)], _target(record, names))
        groups.setdefault(_attack(record), {})[cell] = record
    several = {key: cells for key, cells in groups.items() if len(cells) > 1}
    titles = _titles(several)
    return tuple(
        _matrix(titles[key], cells, checks, names, sources) for key, cells in several.items()
    )


def _matrix(
    title: str,
    found: dict[tuple[str, str], EvaluationRecord],
    checks: AttackChecks,
    names: Names,
    sources: Mapping[tuple[str, str], str],
) -> Matrix:
    # The common set needs the same images and target behind every cell; both are in the key.
    common = dict(zip(found, asr_over_common_set(list(found.values())), strict=True))
    by_target = sorted(found.values(), key=_target_order)
    by_source = sorted(found.values(), key=_source_order)
    return Matrix(
        title=title,
        images=_images(by_source[0]),
        sources=tuple(dict.fromkeys(sources[_source_key(record)] for record in by_source)),
        targets=tuple(dict.fromkeys(_target(record, names) for record in by_target)),
        cells={
            cell: replace(PatchResult.of(record, checks), common=common[cell])
            for cell, record in found.items()
        },
    )


def _attack(record: EvaluationRecord) -> tuple[str, ...]:
    """What tells matrices apart: words first, then what must not be mixed in one matrix."""
    images, outcomes = record["images"], record["outcomes"]
    which = f"{outcomes['first_index']} {outcomes['indices']}"
    settings = attack_key(_settings(record))
    return _words(record), settings, _images(record), images["digest"], which


def _words(record: EvaluationRecord) -> str:
    patch = record["patch"]
    height, width = patch["size_px"]
    target = "untargeted" if patch["target"] is None else f"target {patch['target']}"
    words = [
        f"{patch['attack'] or patch['name']} {patch['kind']} {height}×{width} px",
        f"{percent(patch['area_share'])} of the image",
        target,
        f"placed {patch['placement'] or 'as supplied'}",
    ]
    return ", ".join(words)


def _images(record: EvaluationRecord) -> str:
    return f"{images_words(record['images'])}, {record['outcomes']['n']} patched images"


def _settings(record: EvaluationRecord) -> dict[str, Any]:
    """Of the attack, without what the words say and what belongs to the source."""
    settings = attack_settings(record["patch"])
    return {key: value for key, value in settings.items() if key not in _SAID}


def _titles(
    groups: Mapping[tuple[str, ...], Mapping[tuple[str, str], EvaluationRecord]],
) -> dict[tuple[str, ...], str]:
    """The words of each attack, and the settings in which it differs from others of these words."""
    alike: dict[str, list[tuple[str, ...]]] = {}
    for key in groups:
        alike.setdefault(key[0], []).append(key)
    titles: dict[tuple[str, ...], str] = {}
    for words, group in alike.items():
        settings = [_settings(next(iter(groups[key].values()))) for key in group]
        for key, differing in zip(group, differing_settings(settings), strict=True):
            titles[key] = ", ".join(filter(None, [words, differing]))
    return titles


def _sources(records: Iterable[EvaluationRecord]) -> dict[tuple[str, str], str]:
    """The name of each source by its key, with the start of the hash where two read the same."""
    keys = dict.fromkeys(map(_source_key, records))
    names = [name for name, _ in keys]
    return {
        (name, digest): f"{name} #{digest[:6]}" if names.count(name) > 1 else name
        for name, digest in keys
    }


def _source_key(record: EvaluationRecord) -> tuple[str, str]:
    """Words, and the hash of the checkpoint, or of the patch where its network is not known."""
    patch = record["patch"]
    return _source(record), patch["source"]["checkpoint_sha256"] or patch["sha256"]


def _source(record: EvaluationRecord) -> str:
    source = record["patch"]["source"]
    if source["network"] is None:
        return f"supplied: {record['patch']['name']}"
    undefended = source["defense"] in PLAIN
    name = model_name(source["network"], None if undefended else source["defense"])
    seed = "" if source["seed"] is None else f" seed {source['seed']}"
    bits = "/".join(bits_label(bits) for bits in source["bit_widths"] or [])
    return f"{name}{seed}, {bits}" if bits else f"{name}{seed}"


def _target(record: EvaluationRecord, names: Names) -> str:
    model = record["model"]
    return f"{names.of(model)}, {bits_label(model['bit_width'])}, {model['engine']}"


def _target_order(record: EvaluationRecord) -> tuple[object, ...]:
    model = record["model"]
    return (*model_order(model), model["engine"], -model["bit_width"])


def _source_order(record: EvaluationRecord) -> tuple[object, ...]:
    source = record["patch"]["source"]
    widths = source["bit_widths"] or []
    named = (source[key] or "" for key in ("network", "defense", "checkpoint_sha256"))
    return (*named, len(widths), [-bits for bits in widths])
