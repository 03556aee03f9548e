"""Transfer matrices from evaluation records; no formatting here.

One matrix is one attack (kind, size, place, target) on one set of images: sources are its rows,
targets its columns. Beside each ASR stands that over the common set: the images that every target
of the matrix classifies correctly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deploy.core.share import Share
from eval.measure.checks.checks_record import AttackChecks
from eval.measure.evaluation_record import EvaluationRecord, asr_over_common_set
from eval.report.rows import PLAIN, bits_label, model_name


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """One source's patch on one target.

    Attributes:
        asr: with n and its interval.
        common: the ASR over the common set of the matrix; None where that is empty.
        floor: the random patch on this target.
        whitebox: whether source and target are the same weights.
        mark: stands beside every rate where a check of the attacks on the target tripped.
    """

    asr: Share
    common: Share | None
    floor: Share
    whitebox: bool
    mark: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells of one attack.

    Attributes:
        title: the attack.
        images: the data set, split and count.
        sources: names of the rows.
        targets: names of the columns.
        cells: by (source, target).
    """

    title: str
    images: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: dict[tuple[str, str], MatrixCell]


def matrices_of(records: Iterable[EvaluationRecord], checks: AttackChecks) -> tuple[Matrix, ...]:
    """Every matrix that the records hold with two cells or more; a newer record replaces an older
    one of the same cell.

    Raises:
        InputError: records of one attack that are for different images.
    """
    groups: dict[tuple[str, ...], dict[tuple[str, str], EvaluationRecord]] = {}
    for record in records:
        cell = (_source(record), _target(record))
        groups.setdefault(_attack(record), {})[cell] = record
    return tuple(_matrix(key, cells, checks) for key, cells in groups.items() if len(cells) > 1)


def _matrix(
    key: tuple[str, ...],
    found: dict[tuple[str, str], EvaluationRecord],
    checks: AttackChecks,
) -> Matrix:
    title, images = key[0], key[1]
    # The common set needs the same images and target behind every cell; both are in the key.
    common = dict(zip(found, asr_over_common_set(list(found.values())), strict=True))
    by_target = sorted(found.values(), key=_target_order)
    by_source = sorted(found.values(), key=_source_order)
    return Matrix(
        title=title,
        images=images,
        sources=tuple(dict.fromkeys(_source(record) for record in by_source)),
        targets=tuple(dict.fromkeys(_target(record) for record in by_target)),
        cells={
            cell: MatrixCell(
                asr=record["asr"],
                common=common[cell],
                floor=record["floor"]["asr"],
                whitebox=_whitebox(record),
                mark=checks.mark(record["model"]),
            )
            for cell, record in found.items()
        },
    )


def _attack(record: EvaluationRecord) -> tuple[str, ...]:
    patch, images = record["patch"], record["images"]
    height, width = patch["size_px"]
    target = "untargeted" if patch["target"] is None else f"target {patch['target']}"
    words = [
        f"{patch['attack'] or patch['name']} {patch['kind']} {height}×{width} px",
        f"{100 * patch['area_share']:.1f}% of the image",
        target,
        f"placed {patch['placement'] or 'as supplied'}",
    ]
    about = f"{images['name']}, {images['split']} split, {record['outcomes']['n']} patched images"
    # What is not said in words, but must not be mixed in one matrix.
    outcomes = record["outcomes"]
    which = f"{outcomes['first_index']} {outcomes['indices']}"
    return ", ".join(words), about, images["digest"], which


def _source(record: EvaluationRecord) -> str:
    source = record["patch"]["source"]
    if source["network"] is None:
        return f"supplied: {record['patch']['name']}"
    undefended = source["defense"] in PLAIN
    name = model_name(source["network"], None if undefended else source["defense"])
    seed = "" if source["seed"] is None else f" seed {source['seed']}"
    bits = "/".join(bits_label(bits) for bits in source["bit_widths"] or [])
    return f"{name}{seed}, {bits}" if bits else f"{name}{seed}"


def _target(record: EvaluationRecord) -> str:
    model = record["model"]
    name = model_name(model["network"], model["defense"])
    checkpoint = (model["checkpoint_sha256"] or "?")[:4]
    return f"{name} #{checkpoint}, {bits_label(model['bit_width'])}, {model['engine']}"


def _target_order(record: EvaluationRecord) -> tuple[object, ...]:
    model = record["model"]
    return (
        model["network"],
        model["defense"] not in PLAIN,
        model["defense"],
        model["checkpoint_sha256"] or "",
        model["engine"],
        -model["bit_width"],
    )


def _source_order(record: EvaluationRecord) -> tuple[object, ...]:
    source = record["patch"]["source"]
    widths = source["bit_widths"] or []
    return (
        source["network"] or "",
        source["defense"] or "",
        source["checkpoint_sha256"] or "",
        len(widths),
        [-bits for bits in widths],
    )


def _whitebox(record: EvaluationRecord) -> bool:
    source = record["patch"]["source"]["checkpoint_sha256"]
    return source is not None and source == record["model"]["checkpoint_sha256"]
