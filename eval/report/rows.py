"""From evaluation records to the rows and columns of the main table; no formatting here.

One table is one set of images (name, split, digest): figures of different images never share a
table. A row is one model on one engine, a column one patch. A row of a defended network whose clean
accuracy is more than two points under plain QAT (same network, bit-width, engine and images) is not
comparable: a network that gave up accuracy resists patches for the wrong reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from deploy.core.bit_widths import FLOAT, bits_label, bits_words
from deploy.core.errors import NothingToEvaluate
from deploy.core.share import Share
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.evaluation_record import (
    KIND,
    EvaluationRecord,
    LatencyFacts,
    ModelFacts,
    PatchFacts,
    check_evaluation,
)
from eval.report.words import PLAIN, model_name, model_order, name_of, percent

MOST_POINTS_UNDER_PLAIN = Fraction(2, 100)

Comparability = Literal["baseline", "comparable", "not comparable", "no baseline"]

_ATTACK_NAMES = {
    "gap": "GAP",
    "lavan": "LaVAN",
    "location": "location-optimized",
    "texture": "texture search",
    "sparse-rs": "Sparse-RS",
    "adaptive": "Adaptive",
    "supplied": "supplied",
}


@dataclass(frozen=True, kw_only=True)
class PatchColumn:
    """One patch, as a column.

    Attributes:
        key: what tells columns apart.
        title: attack, kind and size, such as "LaVAN per-image 6×6".
        detail: area, target, place and the model it was made on, in words.
        facts: the record's own facts of it.
    """

    key: str
    title: str
    detail: str
    facts: PatchFacts


@dataclass(frozen=True, kw_only=True)
class PatchResult:
    """What one patch did to one model; ``mark`` stands beside every rate: a check of the attacks on
    this model tripped (``eval.measure.checks.checks_record.MARK``), or nothing."""

    asr: Share
    floor: Share
    robust_accuracy: Share
    drift_points: float | None
    agreement: Share | None
    whitebox: bool
    asr_common: Share | None
    mark: str = ""

    @property
    def rate(self) -> str:
        """The ASR in per cent, with its mark."""
        return f"{percent(self.asr['value'])}{self.mark}"

    @property
    def above_floor(self) -> bool:
        """Whether the interval of the ASR lies above that of the random patch."""
        return self.asr["low"] > self.floor["high"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model on one engine.

    Attributes:
        label: network and defense, with the start of the checkpoint's hash where two models would
            otherwise read the same.
        model: the record's facts of the model.
        clean: clean accuracy over all images given.
        cells: by the key of the column; a patch that was not tried has none.
        latency: None where it was not measured.
        size_ratio: size of the float file of this network and defense over that of this file.
        comparability: against the plain row of the same network, bit-width and engine.
        points_under_plain: clean accuracy of that row minus this one's, in points.
    """

    label: str
    model: ModelFacts
    clean: Share
    cells: Mapping[str, PatchResult]
    latency: LatencyFacts | None
    size_ratio: float | None
    comparability: Comparability
    points_under_plain: float | None

    @property
    def is_float(self) -> bool:
        """Whether this is the network without quantization."""
        return self.model["bit_width"] == FLOAT

    @property
    def bits_label(self) -> str:
        """ "float" for 32, else the number."""
        return bits_label(self.model["bit_width"])

    @property
    def at(self) -> str:
        """Bit-width and engine, such as "2 bits, onnxruntime"."""
        return f"{bits_words(self.model['bit_width'])}, {self.model['engine']}"


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """All results on one set of images."""

    images_name: str
    split: str
    digest: str
    n: int
    classes: tuple[str, ...]
    columns: tuple[PatchColumn, ...]
    rows: tuple[Row, ...]

    @property
    def engines(self) -> list[str]:
        """Names of the engines, each once."""
        return list(dict.fromkeys(row.model["engine"] for row in self.rows))


def evaluations_of(records: Iterable[Mapping[str, Any]]) -> list[EvaluationRecord]:
    """The payloads of the evaluation records.

    Raises:
        InputError: one lacks a field.
    """
    return [
        check_evaluation(record["payload"], where="an evaluation record")
        for record in records
        if record["kind"] == KIND
    ]


def tables_from_records(records: Iterable[Mapping[str, Any]]) -> tuple[ResultTable, ...]:
    """Arrange the evaluation records among `records` (oldest first; a newer one replaces an older
    one of the same model, engine, patch and images).

    Raises:
        InputError: an evaluation record lacks a field.
        NothingToEvaluate: there is no evaluation record.
    """
    records = list(records)
    checks = attack_checks_from_records(records)
    evaluations = evaluations_of(records)
    if not evaluations:
        raise NothingToEvaluate(
            "There is no evaluation record to report; run `qadtr eval` on this run first."
        )
    groups: dict[tuple[str, ...], list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        images = evaluation["images"]
        groups.setdefault((images["name"], images["split"], images["digest"]), []).append(
            evaluation
        )
    return tuple(_table(group, checks) for group in groups.values())


@dataclass
class _Draft:
    model: ModelFacts
    clean: Share
    cells: dict[str, PatchResult] = field(default_factory=dict)
    latency: LatencyFacts | None = None


def _table(evaluations: Sequence[EvaluationRecord], checks: AttackChecks) -> ResultTable:
    columns: dict[str, PatchColumn] = {}
    drafts: dict[tuple[object, ...], _Draft] = {}
    for evaluation in evaluations:
        model = evaluation["model"]
        column = _column(evaluation)
        columns[column.key] = column
        draft = drafts.setdefault(
            _row_key(model), _Draft(model=model, clean=evaluation["clean_accuracy"])
        )
        draft.model = model
        draft.clean = evaluation["clean_accuracy"]
        draft.latency = evaluation["latency"] or draft.latency
        draft.cells[column.key] = _cell(evaluation, checks.mark(model))
    ordered = sorted(drafts.values(), key=lambda draft: _order(draft.model))
    labels = _labels([draft.model for draft in ordered])
    images = evaluations[-1]["images"]
    return ResultTable(
        images_name=images["name"],
        split=images["split"],
        digest=images["digest"],
        n=max(evaluation["images"]["n"] for evaluation in evaluations),
        classes=tuple(images["classes"]),
        columns=_told_apart(columns.values()),
        rows=tuple(
            _row(draft, label, ordered) for draft, label in zip(ordered, labels, strict=True)
        ),
    )


def _told_apart(columns: Iterable[PatchColumn]) -> tuple[PatchColumn, ...]:
    """Columns in order; those that would read the same get the patch's hash behind the detail."""
    ordered = sorted(columns, key=lambda column: (column.title.lower(), column.detail, column.key))
    texts = [(column.title, column.detail) for column in ordered]
    return tuple(
        replace(column, detail=f"{column.detail}, patch #{column.facts['sha256'][:6]}")
        if texts.count(text) > 1
        else column
        for column, text in zip(ordered, texts, strict=True)
    )


def _row(draft: _Draft, label: str, all_drafts: Sequence[_Draft]) -> Row:
    comparability, under = _comparability(draft, all_drafts)
    return Row(
        label=label,
        model=draft.model,
        clean=draft.clean,
        cells=draft.cells,
        latency=draft.latency,
        size_ratio=_size_ratio(draft, all_drafts),
        comparability=comparability,
        points_under_plain=under,
    )


def _comparability(
    draft: _Draft, all_drafts: Sequence[_Draft]
) -> tuple[Comparability, float | None]:
    model = draft.model
    if model["defense"] in PLAIN:
        return "baseline", None
    plain = [
        other
        for other in all_drafts
        if other.model["defense"] in PLAIN
        and all(other.model[key] == model[key] for key in ("network", "bit_width", "engine"))
    ]
    # A float network trained as a source of patches is no quantization-aware one: where there is
    # a network of several bit-widths, that is the baseline at 32 bits too.
    quantized = {
        other.model["checkpoint_sha256"]
        for other in all_drafts
        if other.model["bit_width"] != FLOAT
    }
    plain = [p for p in plain if p.model["checkpoint_sha256"] in quantized] or plain
    if not plain:
        return "no baseline", None
    # Several plain networks: the best of them is what the defense must be held against.
    best = max(Fraction(other.clean["k"], other.clean["n"]) for other in plain)
    under = best - Fraction(draft.clean["k"], draft.clean["n"])
    verdict: Comparability = "comparable" if under <= MOST_POINTS_UNDER_PLAIN else "not comparable"
    return verdict, float(100 * under)


def _size_ratio(draft: _Draft, all_drafts: Sequence[_Draft]) -> float | None:
    size = draft.model["file_size_bytes"]
    if size is None or draft.model["bit_width"] == FLOAT:
        return None
    for other in all_drafts:
        float_size = other.model["file_size_bytes"]
        if (
            other.model["bit_width"] == FLOAT
            and float_size is not None
            and all(
                other.model[key] == draft.model[key]
                for key in ("network", "defense", "checkpoint_sha256")
            )
        ):
            return float_size / size
    return None


def _row_key(model: ModelFacts) -> tuple[object, ...]:
    return (
        *(model["network"], model["defense"], model["bit_width"], model["engine"]),
        *(model["checkpoint_sha256"], model["file_sha256"]),
    )


def _order(model: ModelFacts) -> tuple[object, ...]:
    last = (-model["bit_width"], model["engine"], model["file_sha256"] or "")
    return (*model_order(model), *last)


def _labels(models: Sequence[ModelFacts]) -> list[str]:
    names = [name_of(model) for model in models]
    checkpoints: dict[str, set[str | None]] = {}
    for name, model in zip(names, models, strict=True):
        checkpoints.setdefault(name, set()).add(model["checkpoint_sha256"])
    return [
        f"{name} #{(model['checkpoint_sha256'] or '?')[:6]}" if len(checkpoints[name]) > 1 else name
        for name, model in zip(names, models, strict=True)
    ]


def _cell(evaluation: EvaluationRecord, mark: str) -> PatchResult:
    drift = evaluation["drift"]
    return PatchResult(
        asr=evaluation["asr"],
        floor=evaluation["floor"]["asr"],
        robust_accuracy=evaluation["robust_accuracy"],
        drift_points=None if drift is None else drift["asr_points"],
        agreement=None if drift is None else drift["clean_agreement"],
        whitebox=is_whitebox(evaluation),
        asr_common=evaluation["asr_common"],
        mark=mark,
    )


def is_whitebox(evaluation: EvaluationRecord) -> bool:
    """Whether the patch was made on the very weights that it is tried on."""
    source = evaluation["patch"]["source"]["checkpoint_sha256"]
    return source is not None and source == evaluation["model"]["checkpoint_sha256"]


def _column(evaluation: EvaluationRecord) -> PatchColumn:
    patch = evaluation["patch"]
    height, width = patch["size_px"]
    attack = patch["attack"]
    name = patch["name"] if attack is None else _ATTACK_NAMES.get(attack, attack)
    title = f"{name} {patch['kind']} {height}×{width}"
    parts = [f"{100 * patch['area_share']:.1f}% of the image ({patch['area_px']} px)"]
    if patch["shape"] not in (None, "square"):
        parts.append(str(patch["shape"]))
    if patch["target"] is not None:
        classes = evaluation["images"]["classes"]
        target = patch["target"]
        parts.append(f"target {classes[target] if target < len(classes) else target}")
    else:
        parts.append("untargeted")
    if patch["placement"] is not None:
        parts.append(f"placed {patch['placement']}")
    whitebox = is_whitebox(evaluation)
    made_on = "white-box: made on the model itself" if whitebox else _source(patch)
    parts.append(made_on)
    detail = ", ".join(parts)
    # White-box patches are made anew for each model and share a column; any other patch is one
    # thing that is tried on many models.
    # The adaptive attack is always made at the bit-width that it is tried at.
    bits = None if attack == "adaptive" else patch["source"]["bit_widths"]
    key = f"{title}|{detail}|{bits}" if whitebox else f"{title}|{detail}|{patch['sha256']}"
    return PatchColumn(key=key, title=title, detail=detail, facts=patch)


def _source(patch: PatchFacts) -> str:
    source = patch["source"]
    if source["network"] is None:
        return "supplied, source unknown"
    # Whether a float source went through quantization-aware training says nothing about a patch
    # made at 32 bits; that it had no defense does.
    undefended = source["defense"] in PLAIN
    words = [model_name(source["network"], None if undefended else source["defense"])]
    if undefended:
        words.insert(0, "undefended")
    if source["bit_widths"]:
        widths = "/".join(bits_label(bits) for bits in source["bit_widths"])
        words.append(widths if source["bit_widths"] == [FLOAT] else f"{widths} bits")
    if source["seed"] is not None:
        words.append(f"seed {source['seed']}")
    return "made on " + " ".join(words)
