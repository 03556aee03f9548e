"""From evaluation records to the rows and columns of the main table; no formatting here.

One table is one set of images (name, split, digest): figures of different images never share a
table. A row is one model on one engine, a column one patch. A row of a defended network whose clean
accuracy is more than two points under plain QAT (same network, bit-width, engine and images) is not
comparable: a network that gave up accuracy resists patches for the wrong reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from deploy.core.bit_widths import FLOAT, bits_label, bits_words
from deploy.core.errors import NothingToEvaluate
from deploy.core.share import Share
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.evaluation_record import (
    KIND,
    MOST_CLEAN_LOST,
    EvaluationRecord,
    LatencyFacts,
    ModelFacts,
    PatchFacts,
    clean_accuracy_lost,
    made_on_it,
)
from eval.report.attacks import attack_key, attack_settings, by_images
from eval.report.names import differing_settings, names_of_models
from eval.report.words import PLAIN, model_name, model_order, percent
from training.record_types import payloads

SAME = ("network", "bit_width", "engine")
"""What a defended network and the plain one that it is compared with have in common."""

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
    """One patch, as a column; ``key`` tells columns apart.

    Attributes:
        title: attack, kind and size, such as "LaVAN per-image 6×6".
        detail: area, target, place and the model it was made on, in words.
    """

    key: str
    title: str
    detail: str
    facts: PatchFacts


@dataclass(frozen=True, kw_only=True)
class PatchResult:
    """What one patch did to one model.

    Attributes:
        asr: with n and its interval.
        floor: that of the random patch.
        drift_points: None where the fake-quantized network was not run.
        whitebox: whether the patch was made on the very weights that it is tried on.
        mark: next to every rate: a check of the attacks on this model tripped, or empty.
        common: the ASR over the images that all models of a matrix get right; None outside of one.
    """

    asr: Share
    floor: Share
    drift_points: float | None
    whitebox: bool
    mark: str
    common: Share | None = None

    @classmethod
    def of(cls, evaluation: EvaluationRecord, checks: AttackChecks) -> Self:
        """From the evaluation, and the checks of the attacks on its model."""
        drift = evaluation["drift"]
        return cls(
            asr=evaluation["asr"],
            floor=evaluation["floor"]["asr"],
            drift_points=None if drift is None else drift["asr_points"],
            whitebox=_is_whitebox(evaluation),
            mark=checks.mark(evaluation["model"]),
        )

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
        label: network and defense, with run, and seed and settings, where two models would
            otherwise read the same (``eval.report.names``).
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
    """All results on one set of images.

    Attributes:
        trainings: of each network that is not alone of its kind, how its training differs from
            those of the others, a line each.
    """

    images_name: str
    split: str
    digest: str
    n: int
    classes: tuple[str, ...]
    columns: tuple[PatchColumn, ...]
    rows: tuple[Row, ...]
    trainings: tuple[str, ...]

    @property
    def engines(self) -> list[str]:
        """Names of the engines, each once."""
        return list(dict.fromkeys(row.model["engine"] for row in self.rows))

    @property
    def legend(self) -> dict[str, str]:
        """What each column is of, by its letter: A to Z, then A1 and on."""
        turns = [divmod(index, 26) for index in range(len(self.columns))]
        letters = [chr(ord("A") + place) + (str(turn) if turn else "") for turn, place in turns]
        return {
            letter: f"{column.title} px, {column.detail}"
            for letter, column in zip(letters, self.columns, strict=True)
        }


def tables_from_records(records: Iterable[Mapping[str, Any]]) -> tuple[ResultTable, ...]:
    """Arrange the evaluation records among `records` (oldest first; a newer one replaces an older
    one of the same model, engine, patch and images, a white-box patch one of the same attack).

    Raises:
        InputError: an evaluation record lacks a field.
        NothingToEvaluate: there is no evaluation record.
    """
    records = list(records)
    checks = attack_checks_from_records(records)
    evaluations = payloads(records, KIND, EvaluationRecord)
    if not evaluations:
        raise NothingToEvaluate(
            "no evaluation record found to report; run `qadtr eval` on this run first"
        )
    groups: dict[tuple[str, ...], list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        images = evaluation["images"]
        groups.setdefault((images["name"], images["split"], images["digest"]), []).append(
            evaluation
        )
    return tuple(_table(group, checks) for group in groups.values())


def _table(evaluations: Sequence[EvaluationRecord], checks: AttackChecks) -> ResultTable:
    of_row: dict[tuple[object, ...], list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        of_row.setdefault(_identity(evaluation["model"]), []).append(evaluation)
    ordered = sorted(of_row.values(), key=lambda found: _order(found[-1]["model"]))
    newest = [found[-1] for found in ordered]
    names = names_of_models(one["model"] for one in evaluations)
    images = evaluations[-1]["images"]
    columns = {column.key: column for column in map(_column, evaluations)}
    return ResultTable(
        images_name=images["name"],
        split=images["split"],
        digest=images["digest"],
        n=max(evaluation["images"]["n"] for evaluation in evaluations),
        classes=tuple(images["classes"]),
        columns=_told_apart(columns.values()),
        rows=tuple(_row(found, names.of(found[-1]["model"]), newest, checks) for found in ordered),
        trainings=names.lines(),
    )


def _told_apart(columns: Iterable[PatchColumn]) -> tuple[PatchColumn, ...]:
    """Columns in order; those that would read the same get the settings of the attack in which they
    differ after the detail, and the patch's hash where they differ in none."""
    alike: dict[tuple[str, str], list[PatchColumn]] = {}
    for column in sorted(columns, key=lambda one: (one.title.lower(), one.detail, one.key)):
        alike.setdefault((column.title, column.detail), []).append(column)
    told = []
    for group in alike.values():
        settings = differing_settings([attack_settings(column.facts) for column in group])
        for column, words in zip(group, settings, strict=True):
            start = f"patch #{column.facts['sha256'][:6]}" if settings.count(words) > 1 else ""
            detail = ", ".join(filter(None, [column.detail, words, start]))
            told.append(replace(column, detail=detail))
    return tuple(told)


def _row(
    found: Sequence[EvaluationRecord],
    label: str,
    newest: Sequence[EvaluationRecord],
    checks: AttackChecks,
) -> Row:
    """The row of one model, from its evaluations and the newest of each other model."""
    comparability, under = _comparability(found[-1], newest)
    return Row(
        label=label,
        model=found[-1]["model"],
        clean=found[-1]["clean_accuracy"],
        cells={_column(one).key: PatchResult.of(one, checks) for one in by_images(found)},
        latency=next((one["latency"] for one in reversed(found) if one["latency"]), None),
        size_ratio=_size_ratio(found[-1]["model"], [one["model"] for one in newest]),
        comparability=comparability,
        points_under_plain=under,
    )


def _comparability(
    one: EvaluationRecord, newest: Sequence[EvaluationRecord]
) -> tuple[Comparability, float | None]:
    if one["model"]["defense"] in PLAIN:
        return "baseline", None
    same = keys(one["model"], *SAME)
    plain = [
        other
        for other in newest
        if other["model"]["defense"] in PLAIN and keys(other["model"], *SAME) == same
    ]
    # A float network trained as a source of patches is not a quantization-aware one: where there is
    # a network of several bit-widths, that is the baseline at 32 bits too.
    models = [other["model"] for other in newest]
    quantized = {m["checkpoint_sha256"] for m in models if m["bit_width"] != FLOAT}
    plain = [p for p in plain if p["model"]["checkpoint_sha256"] in quantized] or plain
    if not plain:
        return "no baseline", None
    # Several plain networks: the best of them is what the defense must be held against.
    lost = max(clean_accuracy_lost(other, one) for other in plain)
    verdict: Comparability = "comparable" if lost <= MOST_CLEAN_LOST else "not comparable"
    return verdict, float(100 * lost)


def _size_ratio(model: ModelFacts, models: Sequence[ModelFacts]) -> float | None:
    size, same = model["file_size_bytes"], keys(model, "network", "defense", "checkpoint_sha256")
    if size is None or model["bit_width"] == FLOAT:
        return None
    for other in models:
        float_size = other["file_size_bytes"]
        if (
            other["bit_width"] == FLOAT
            and float_size is not None
            and keys(other, "network", "defense", "checkpoint_sha256") == same
        ):
            return float_size / size
    return None


def keys(model: Mapping[str, Any], *names: str) -> list[object]:
    """Some of the facts of a model, to compare it by."""
    return [model[name] for name in names]


_IDENTITY = ("network", "defense", "checkpoint_sha256", "bit_width", "engine", "file_sha256")


def _identity(model: ModelFacts) -> tuple[object, ...]:
    """What distinguishes models; not the run, whose folder may be renamed."""
    return tuple(keys(model, *_IDENTITY))


def _order(model: ModelFacts) -> tuple[Any, ...]:
    return (*model_order(model), -model["bit_width"], model["engine"])


def _is_whitebox(evaluation: EvaluationRecord) -> bool:
    return made_on_it(evaluation["patch"], evaluation["model"]["checkpoint_sha256"])


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
    whitebox = _is_whitebox(evaluation)
    made_on = "white-box: made on the model itself" if whitebox else _source(patch)
    parts.append(made_on)
    detail = ", ".join(parts)
    # White-box patches are made anew for each model, and those of one attack share a column; any
    # other patch is one thing that is tried on many models.
    # The adaptive attack is always made at the bit-width that it is tried at.
    bits = None if attack == ADAPTIVE else patch["source"]["bit_widths"]
    which = f"{bits}|{attack_key(attack_settings(patch))}" if whitebox else patch["sha256"]
    key = f"{title}|{detail}|{which}"
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
