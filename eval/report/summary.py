"""What a manager reads: the worst patch at the lowest bit-width, its price, and what was proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.bit_widths import bits_words
from deploy.core.html import Html, join, tag
from deploy.core.share import Share
from eval.measure.adaptive.adaptive_record import AdaptiveRecord
from eval.measure.proofs import Proofs
from eval.report.document import note
from eval.report.rows import PatchColumn, ResultTable, Row
from eval.report.words import PLAIN, interval, percent, points, size_ratio


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A plain model, a defended one (if any), and the patch that does most harm to the plain."""

    plain: Row
    defended: Row | None
    column: PatchColumn


def summary(
    tables: Sequence[ResultTable], proofs: Proofs, adaptive: Sequence[AdaptiveRecord] = ()
) -> Html:
    """Tiles and sentences, computed from the tables; nothing is said that was not measured.

    Args:
        tables: at least one.
        proofs: certificates and parity of the models.
        adaptive: what attackers who know a network achieve, oldest first.
    """
    table = max(tables, key=lambda t: (t.split == "test", len(t.rows)))
    case = _case(table)
    parts: list[Html] = []
    if case is None:
        parts.append(_without_baseline(table))
    else:
        parts += [_tiles(case, table, proofs, adaptive), *_sentences(case, table, adaptive)]
    parts += _proofs(table, proofs)
    if any(cell.mark for row in table.rows for cell in row.cells.values()):
        parts.append(note(f"{LOWER_BOUND} Which one is told under “Attack checks”."))
    if table.split != "test":
        parts.append(
            note(
                f"These figures are from the {table.split} split, on which settings may have been "
                "chosen: they are no final results."
            )
        )
    return join(parts)


def _case(table: ResultTable) -> _Case | None:
    """Lowest bit-width of a plain network, preferably one that has a defended counterpart."""
    options = []
    for plain in table.rows:
        if plain.model["defense"] not in PLAIN or not plain.cells:
            continue
        twins = [
            row
            for row in table.rows
            if row.comparability in ("comparable", "not comparable")
            and row.cells
            and all(
                row.model[key] == plain.model[key] for key in ("network", "bit_width", "engine")
            )
        ]
        # White-box patches differ from model to model, so they make no pair.
        columns = [c for c in table.columns if c.key in plain.cells]
        transferred = [c for c in columns if not plain.cells[c.key].whitebox]
        partners: list[Row | None] = [*twins] or [None]
        for twin in partners:
            shared = [c for c in transferred if twin is None or c.key in twin.cells]
            if not shared:
                continue
            worst = max(shared, key=lambda c: plain.cells[c.key].asr["value"])
            options.append(_Case(plain=plain, defended=twin, column=worst))
    if not options:
        return None
    return min(
        options,
        key=lambda case: (
            case.defended is None,
            case.plain.model["engine"] == "torch",
            case.plain.model["bit_width"],
            case.defended is not None and case.defended.comparability == "not comparable",
            0.0 if case.defended is None else case.defended.cells[case.column.key].asr["value"],
        ),
    )


def _tiles(
    case: _Case, table: ResultTable, proofs: Proofs, adaptive: Sequence[AdaptiveRecord]
) -> Html:
    where = case.plain.at
    plain = case.plain.cells[case.column.key]
    tiles = [_tile(plain.rate, f"fooled, plain, {where}", interval(plain.asr))]
    if case.defended is not None:
        cell = case.defended.cells[case.column.key]
        tiles.append(_tile(cell.rate, f"fooled, hardened, {where}", interval(cell.asr)))
        known = _knowing(case.defended, table, adaptive)
        if known is not None:
            tiles.append(
                _tile(
                    known.rate,
                    f"fooled, hardened, by one who knows it, {bits_words(known.bit_width)}",
                    interval(known.asr),
                )
            )
        under = case.defended.points_under_plain
        if under is not None:
            verdict = (
                "points of clean accuracy; too far apart to compare"
                if case.defended.comparability == "not comparable"
                else "points of clean accuracy, hardened against plain"
            )
            tiles.append(_tile(points(-under), verdict, percent(case.defended.clean["value"])))
    if case.plain.size_ratio is not None:
        tiles.append(
            _tile(size_ratio(case.plain.size_ratio), f"of the float file's size, {where}", "")
        )
    certified = [proofs.certified(row.model) for row in _quantized(table)]
    known_of = [integer for integer in certified if integer is not None]
    if known_of:
        without = len(certified) - len(known_of)
        tiles.append(
            _tile(
                f"{sum(known_of)} of {len(known_of)}",
                "certified models run all-integer",
                f"{without} more without a certificate" if without else "every quantized model",
            )
        )
    return tag("ul", tiles, class_="tiles")


def _tile(value: str, what: str, detail: str) -> Html:
    return tag(
        "li",
        tag("span", value, class_="value"),
        tag("span", what, class_="what"),
        tag("span", detail, class_="soft small") if detail else "",
    )


def _sentences(case: _Case, table: ResultTable, adaptive: Sequence[AdaptiveRecord]) -> list[Html]:
    classes = table.classes
    plain, column = case.plain.cells[case.column.key], case.column
    target = column.facts["target"]
    does = f"makes {case.plain.label} wrong on"
    if target is not None:
        named = classes[target] if target < len(classes) else target
        does = f"makes {case.plain.label} answer “{named}” on"
    parts = [
        tag(
            "p",
            f"The patch that harms most ({column.title}; {column.detail}) {does} "
            f"{plain.rate} of the images that it "
            f"otherwise gets right ({case.plain.at}; 95% interval {interval(plain.asr)}). "
            f"Random pixels in its place: {percent(plain.floor['value'])}. "
            + (
                ""
                if plain.above_floor
                else "The intervals of the two overlap: more than noise is not shown."
            ),
        )
    ]
    if case.defended is None:
        parts.append(tag("p", "No hardened network was measured beside it."))
        return parts
    cell = case.defended.cells[column.key]
    parts.append(
        tag(
            "p",
            f"On the hardened network ({case.defended.label}) the same patch succeeds on "
            f"{cell.rate} ({interval(cell.asr)}). " + _difference(plain.asr, cell.asr),
        )
    )
    parts.append(note(_knowing_attacker(_knowing(case.defended, table, adaptive))))
    under = case.defended.points_under_plain
    if case.defended.comparability == "not comparable" and under is not None:
        parts.append(
            note(
                f"The hardened network's clean accuracy is {under:.1f} points under the plain one: "
                "more than the 2 points up to which rows are compared. Its attack success rate "
                "is shown, but is no evidence for the defense."
            )
        )
    return parts


@dataclass(frozen=True, kw_only=True)
class _Knowing:
    """The most that was achieved by a patch made on the hardened network itself."""

    asr: Share
    bit_width: int
    where: str
    mark: str

    @property
    def rate(self) -> str:
        """In per cent, marked where a check of the attacks tripped."""
        return f"{percent(self.asr['value'])}{self.mark}"


def _knowing(
    defended: Row, table: ResultTable, adaptive: Sequence[AdaptiveRecord]
) -> _Knowing | None:
    """The worst known at its bit-width, over every file of the network and the adaptive attack; at
    another bit-width where none was tried at its own."""
    checkpoint = defended.model["checkpoint_sha256"]
    found = [
        _Knowing(asr=cell.asr, bit_width=row.model["bit_width"], where=row.at, mark=cell.mark)
        for row in table.rows
        if row.model["checkpoint_sha256"] == checkpoint
        for cell in row.cells.values()
        if cell.whitebox
    ]
    for record in adaptive:
        model, images = record["model"], record["images"]
        same = model["checkpoint_sha256"] == checkpoint and images["digest"] == table.digest
        if same and record["law"] == "fixed":
            bits = model["bit_widths"][0]
            where = f"{bits_words(bits)}, fake-quantized"
            marks = {known.mark for known in found if known.bit_width == bits}
            found.append(
                _Knowing(
                    asr=record["asr"], bit_width=bits, where=where, mark=max(marks, default="")
                )
            )
    own = [known for known in found if known.bit_width == defended.model["bit_width"]]
    return max(own or found, key=lambda known: known.asr["value"], default=None)


def _knowing_attacker(known: _Knowing | None) -> str:
    """What an attacker who has the hardened network itself achieves: never left unsaid."""
    if known is None:
        return (
            "No patch made on the hardened network itself was tried. A defense that disturbs "
            "gradients counts only against an attacker who knows it."
        )
    return (
        "An attacker who has the hardened network itself succeeds on "
        f"{known.rate} ({interval(known.asr)}; {known.where}): resisting "
        "transferred patches is not resisting that one."
    )


def _difference(plain: Share, defended: Share) -> str:
    if defended["high"] < plain["low"]:
        return "The intervals do not overlap: the hardened network resists it better."
    if defended["low"] > plain["high"]:
        return "The intervals do not overlap: the hardened network is fooled more often."
    return "The intervals overlap: these images do not show a difference."


def _proofs(table: ResultTable, proofs: Proofs) -> list[Html]:
    quantized = _quantized(table)
    if not quantized:
        return []
    sentences = []
    compared = [proofs.parity_ok(row.model) for row in quantized]
    known = [ok for ok in compared if ok is not None]
    all_compared = len(known) == len(compared)
    if known:
        sentences.append(
            f"{sum(known)} of {len(known)} integer models give exactly the codes and logits of the "
            f"numpy reference{'' if all_compared else ', the others were not compared'}."
        )
    drifts = [
        abs(cell.drift_points)
        for row in quantized
        for cell in row.cells.values()
        if cell.drift_points is not None
    ]
    if drifts:
        sentences.append(
            f"Between engine and fake-quantized network the attack success rate moves by at most "
            f"{max(drifts):.1f} points."
        )
    return [tag("p", " ".join(sentences))] if sentences else []


def _quantized(table: ResultTable) -> list[Row]:
    return [row for row in table.rows if not row.is_float and row.model["file_sha256"] is not None]


def _without_baseline(table: ResultTable) -> Html:
    worst = max(
        (
            (row, c, row.cells[c.key])
            for row in table.rows
            for c in table.columns
            if c.key in row.cells
        ),
        key=lambda found: found[2].asr["value"],
    )
    row, column, cell = worst
    return tag(
        "p",
        f"The highest attack success rate: {column.title} against {row.label} ({row.at}), "
        f"{cell.rate} ({interval(cell.asr)}). No plain network with a transferred "
        "patch is among the records, so nothing is compared.",
    )
